"""LG-FedAvg (Liang et al., 2020): local bodies under a global head, starting from a finished FedAvg run (Appendix A.3).

The paper trains it for about a quarter of FedAvg's rounds with a learning rate of 0.001, a hundredth of FedAvg's, and
does not say whether that decays. Here it decays like every other (Section 3), so that fine-tuning uses 0.00001.
"""

from dataclasses import replace

from fedbabu.algorithms.base import Algorithm, EvaluationRule, Part, Phase
from fedbabu.algorithms.schedule import Schedule

LG_FEDAVG = Algorithm(
    "lg-fedavg",
    title="LG-FedAvg",
    trains=(Phase(Part.FULL),),
    shares=Part.HEAD,
    keeps=Part.BODY,
    starts_from="fedavg",
    schedule=Schedule(rounds_divisor=4, initial_decays=2),
)

# The code keeps the learning rate at 0.001 and does not fine-tune. It selects by the clients' test images (a bug): each
# client its best round, FedAvg's model among them, and then the best average of their heads (main_lg.py).
LG_FEDAVG_AS_IN_THE_CODE = replace(
    LG_FEDAVG,
    personalizes=(),
    schedule=Schedule(rounds_divisor=4, initial_decays=2, decays_after=()),
    evaluation=EvaluationRule.BEST_ROUND_OF_EACH_CLIENT,
)
