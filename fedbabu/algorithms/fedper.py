"""FedPer (Arivazhagan et al., 2019): the head is a personalization layer that never leaves the client."""

from fedbabu.algorithms.base import Algorithm, Part, Phase

FEDPER = Algorithm("fedper", trains=(Phase(Part.FULL),), shares=Part.BODY, keeps=Part.HEAD)
