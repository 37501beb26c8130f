"""The global model before the first round: a random initialization, or the model of a finished run."""

from json import JSONDecodeError
from pathlib import Path

from fedbabu.config import RunConfig
from fedbabu.errors import ConfigError
from fedbabu.federation.clients import Federation
from fedbabu.models import SplitNetwork, build_model
from fedbabu.runs.files import DamagedError, load_state
from fedbabu.runs.folder import MODEL_FILE, RunFolder
from fedbabu.runs.settings import different_training_key
from fedbabu.training.aggregation import State


def open_initial_model(config: RunConfig, federation: Federation, checkpoint: State | None = None) -> SplitNetwork:
    """The network with which training starts, or continues if the state dict of a checkpoint is given.

    A ConfigError is raised if the body has fewer blocks than `trained-blocks`, if the network cannot be trained with
    the noise of differential privacy, or if `initial-model` is not a state dict of this network or, for an algorithm
    that starts from a finished run, a run that was trained differently.
    """
    image_shape, num_classes = federation.image_shape, federation.num_classes
    try:
        model = build_model(
            config.model_name, image_shape, num_classes, config.seed, config.head_init, config.head_blocks
        )
    except ValueError as error:
        raise ConfigError(f"head-blocks = {config.head_blocks} does not fit {config.model_name}: {error}") from error
    if config.trained_blocks > len(model.blocks):
        raise ConfigError(f"trained-blocks = {config.trained_blocks} must be from 0, for all, to {len(model.blocks)}.")
    shared = config.algorithm_spec.shares.names(model.state_dict())
    if config.dp_noise_multiplier and any(name.endswith("running_var") for name in shared):
        raise ConfigError(
            f"dp-noise-multiplier = {config.dp_noise_multiplier} would add noise to the running variances of "
            f"{config.model_name}, which could become negative: give a network whose BatchNorm has no running "
            "statistics, such as FourConvNet or MobileNet."
        )
    if checkpoint:
        model.load_state_dict(checkpoint)
    if checkpoint or not config.initial_model:
        return model
    path, given = Path(config.initial_model).expanduser().absolute(), f"initial-model = '{config.initial_model}'"
    try:
        if path.is_dir() and config.algorithm_spec.starts_from:
            start_run = RunFolder(path).run_config.to_flower()
            wanted = config.to_flower() | {"algorithm": config.algorithm_spec.starts_from}
            if key := different_training_key(start_run, wanted):
                raise ConfigError(
                    f"{given} is a run with {key} = {start_run[key]!r}, but '{config.algorithm}' starts from a run "
                    f"with {wanted[key]!r}: give such a run, or its model.safetensors to start from it all the same."
                )
        state, _ = load_state(path / MODEL_FILE if path.is_dir() else path, checksum_required=False)
    except (OSError, JSONDecodeError, LookupError, TypeError, AttributeError, DamagedError) as error:
        raise ConfigError(f"{given} cannot be read as the folder of a finished run or a model: {error}.") from error
    shapes, expected = ({name: tuple(v.shape) for name, v in s.items()} for s in (state, model.state_dict()))
    for name in sorted(shapes.keys() | expected.keys()):
        if shapes.get(name) != expected.get(name):
            found, needed = (each.get(name, "missing") for each in (shapes, expected))
            raise ConfigError(f"{given} is a model of another network: its {name} is {found}, but must be {needed}.")
    model.load_state_dict(state)
    return model
