"""FedPer (Arivazhagan et al., 2019): the head is a personalization layer that never leaves the client."""

from dataclasses import replace

from fedbabu.algorithms.base import Algorithm, Part, Phase

FEDPER = Algorithm("fedper", title="FedPer", trains=(Phase(Part.FULL),), shares=Part.BODY, keeps=Part.HEAD)

# The code trains copies of its clients' models and writes back only the body, so that heads never persist: every round,
# and the final fine-tuning, start from the first random head (main_fed.py, lines 84 and 115 to 125).
FEDPER_AS_IN_THE_CODE = replace(FEDPER, keeps=Part.NOTHING)
