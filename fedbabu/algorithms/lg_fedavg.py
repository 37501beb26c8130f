"""LG-FedAvg (Liang et al., 2020): local bodies under a global head, from a finished FedAvg model (Appendix A.3)."""

from fedbabu.algorithms.base import Algorithm, Part, Phase

LG_FEDAVG = Algorithm("lg-fedavg", trains=(Phase(Part.FULL),), shares=Part.HEAD, keeps=Part.BODY, continues="fedavg")
