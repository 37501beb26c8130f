"""LG-FedAvg (Liang et al., 2020): local bodies under a global head, from a finished FedAvg model (Appendix A.3).

The paper trains it for about a quarter of FedAvg's rounds with a learning rate of 0.001, and does not say whether that
falls. Here it does, like every other (Section 3), so that fine-tuning has a rate of 0.00001.
"""

from fedbabu.algorithms.base import Algorithm, Part, Phase

LG_FEDAVG = Algorithm("lg-fedavg", trains=(Phase(Part.FULL),), shares=Part.HEAD, keeps=Part.BODY, continues="fedavg")
