"""Local-only training: every client trains its own model alone, with the epochs and the schedule of all K rounds."""

from fedbabu.algorithms.base import Algorithm, Part, Phase
from fedbabu.algorithms.schedule import Schedule

LOCAL_ONLY = Algorithm(
    "local-only",
    trains=(Phase(Part.FULL),),
    shares=Part.NOTHING,
    keeps=Part.FULL,
    personalizes=(),
    schedule=Schedule(visits=10),
)
