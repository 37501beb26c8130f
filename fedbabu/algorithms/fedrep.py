"""FedRep (Collins et al., 2021): τ epochs of the client's own head, then one epoch of the shared body (Appendix A.3).

Fine-tuning has the same order (Algorithm 2, lines 17 and 21). Without the training of the head, FedRep is FedBABU with
τ = 1 (Section 5.2.3).
"""

from dataclasses import replace

from fedbabu.algorithms.base import Algorithm, EvaluationRule, Part, Phase

HEAD_THEN_BODY = (Phase(Part.HEAD), Phase(Part.BODY, epochs=1))

FEDREP = Algorithm(
    "fedrep",
    title="FedRep",
    trains=HEAD_THEN_BODY,
    shares=Part.BODY,
    keeps=Part.HEAD,
    personalizes=HEAD_THEN_BODY,
)

# The code's momentum is 0.5, since its script passes none; it goes on from the head's epochs to the body's. Clients are
# fine-tuned after every round, like a round of training.
FEDREP_AS_IN_THE_CODE = replace(
    FEDREP,
    fixes={"momentum": 0.5, "num-finetune-epochs": "num-local-epochs"},
    one_optimizer=True,
    evaluation=EvaluationRule.PERSONALIZED_EVERY_ROUND,
)
