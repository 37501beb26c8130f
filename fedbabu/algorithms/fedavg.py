"""FedAvg (McMahan et al., 2017): clients train the whole network and the server averages all of it."""

from fedbabu.algorithms.base import Algorithm, Part, Phase

FEDAVG = Algorithm("fedavg", title="FedAvg", trains=(Phase(Part.FULL),), shares=Part.FULL)
