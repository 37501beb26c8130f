"""The global model before the first round: a random initialization, or where another run ended."""

from collections.abc import Mapping
from json import JSONDecodeError
from pathlib import Path

from torch import Tensor

from fedbabu.config import RunConfig, default_run_config
from fedbabu.data.partitions import PARTITIONS
from fedbabu.errors import ConfigError
from fedbabu.federation.clients import Federation
from fedbabu.models import SplitNetwork, build_model
from fedbabu.runs.files import DamagedError, load_state
from fedbabu.runs.folder import MODEL_FILE, RunFolder

# What an algorithm that continues a run must have in common with it.
CONTINUED = (
    "algorithm", "model-name", "partition", "num-clients", "fraction-train", "num-server-rounds", "num-local-epochs",
    "learning-rate", "momentum", "batch-size", "precision", "seed",
)  # fmt: skip


def open_initial_model(
    config: RunConfig, federation: Federation, checkpoint: Mapping[str, Tensor] | None = None
) -> SplitNetwork:
    """The network that training starts from, or that of a checkpoint's state dict, where it goes on.

    Raises:
        ConfigError: if it has fewer blocks than shall be trained, or if `initial-model` is no state dict of
            this network, or is a run of another setting given to an algorithm that continues runs.
    """
    shape, num_classes = federation.image_shape, federation.num_classes
    model = build_model(config.model_name, shape, num_classes, config.seed, config.head_init)
    if config.trained_blocks > len(model.blocks):
        raise ConfigError(
            f"trained-blocks = {config.trained_blocks} is more than the body of {config.model_name} has: it must be "
            f"from 1 to {len(model.blocks)}, or 0 for all."
        )
    if checkpoint:
        model.load_state_dict(checkpoint)
    elif config.initial_model:
        model.load_state_dict(_finished_state(model, config))
    return model


def _finished_state(model: SplitNetwork, config: RunConfig) -> dict[str, Tensor]:
    """The state dict that the run config names."""
    path = Path(config.initial_model).expanduser().absolute()
    given = f"initial-model = '{config.initial_model}'"
    try:
        if path.is_dir() and config.row.continues:
            _check_continued(RunFolder(path), config, given)
        state = load_state(path / MODEL_FILE if path.is_dir() else path)
    except (OSError, JSONDecodeError, DamagedError) as error:
        raise ConfigError(
            f"{given} cannot be read ({error}): it must be the folder of a finished run or a safetensors file."
        ) from error
    shapes, needed = ({name: tuple(v.shape) for name, v in s.items()} for s in (state, model.state_dict()))
    for name in sorted(shapes.keys() | needed.keys()):
        its, ours = (sizes.get(name, "missing") for sizes in (shapes, needed))
        if its != ours:
            raise ConfigError(f"{given} is of another network: its {name} is {its}, this run's is {ours}.")
    return state


def _check_continued(run: RunFolder, config: RunConfig, given: str) -> None:
    """Refuse to continue a run of another algorithm or setting, which would no longer be one experiment."""
    ours = config.to_flower() | {"algorithm": config.row.continues}
    for key in CONTINUED + PARTITIONS[config.partition].keys:
        theirs = run.config.get(key, default_run_config()[key])  # an older run does not know every key
        if theirs != ours[key]:
            raise ConfigError(
                f"{given} is a run with {key} = {theirs!r}, but '{config.algorithm}' continues one with "
                f"{ours[key]!r}: give such a run, or its model.safetensors to continue it all the same."
            )
