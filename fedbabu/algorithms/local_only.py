"""Local-only training: every client trains its own model alone, with the epochs and the schedule of all K rounds."""

from dataclasses import replace

from fedbabu.algorithms.base import Algorithm, EvaluationRule, Part, Phase
from fedbabu.algorithms.schedule import Schedule

LOCAL_ONLY = Algorithm(
    "local-only",
    trains=(Phase(Part.FULL),),
    shares=Part.NOTHING,
    keeps=Part.FULL,
    personalizes=(),
    schedule=Schedule(solo_server_rounds=10),
)

# The code trains 160 epochs in batches of 10 with one optimizer, so that momentum goes on when the learning rate falls,
# and keeps each client's best epoch by its test images (a bug; main_local.py).
LOCAL_ONLY_AS_IN_THE_CODE = replace(
    LOCAL_ONLY,
    fixes={"num-server-rounds": 160, "num-local-epochs": 1, "batch-size": 10},
    one_optimizer=True,
    evaluation=EvaluationRule.BEST_EPOCH_OF_EACH_CLIENT,
)
