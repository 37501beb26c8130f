"""FedRep (Collins et al., 2021): τ epochs of the client's own head, then one epoch of the shared body (Appendix A.3).

Fine-tuning has the same order (Algorithm 2, lines 17 and 21). Without the training of the head, FedRep is FedBABU with
τ = 1 (Section 5.2.3).
"""

from fedbabu.algorithms.base import Algorithm, Part, Phase

HEAD_THEN_BODY = (Phase(Part.HEAD), Phase(Part.BODY, epochs=1))

FEDREP = Algorithm("fedrep", trains=HEAD_THEN_BODY, shares=Part.BODY, keeps=Part.HEAD, personalizes=HEAD_THEN_BODY)
