"""Local-only: every client trains a model of its own, with the epochs and the schedule of all K rounds."""

from fedbabu.algorithms.base import Algorithm, Part, Phase

LOCAL_ONLY = Algorithm("local-only", trains=(Phase(Part.FULL),), shares=Part.NOTHING, keeps=Part.FULL, personalizes=())
