"""Every key of `[tool.flwr.app.config]` once: its type and range. pyproject.toml has its meaning and default."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from fedbabu.algorithms import ALGORITHMS
from fedbabu.config.protocols import BATCHES, DISTANCES, IMAGES, PROTOCOLS
from fedbabu.data.partitions import PARTITIONS
from fedbabu.models import HEAD_INITS, MODELS

DIAGNOSTICS = ("class-accuracy", "similarity", "features")  # the words of the key `record`
CHOICES: dict[str, Collection[str]] = {
    "algorithm": ALGORITHMS,
    "model_name": MODELS,
    "head_init": HEAD_INITS,
    "partition": PARTITIONS,
    "protocol": PROTOCOLS,
    # The empty text stands for the value of the protocol, and has been replaced by it when this is checked.
    "evaluated_round": ("", "last", "best"),
    "template_distance": ("", *DISTANCES),
    "template_images": ("", *IMAGES),
    "template_batches": ("", *BATCHES),
    "aggregation_weights": ("", "examples", "clients"),
}


def _check_path(value: str) -> str:
    try:
        if "\0" in str(Path(value).expanduser()):
            raise ValueError("A path cannot contain the character NUL.")
    except RuntimeError as error:  # ~ of an unknown user
        raise ValueError(str(error)) from error
    return value


def _check_diagnostics(value: str) -> str:
    if not set(value.split()) <= set(DIAGNOSTICS):
        raise ValueError(f"The words must be among {', '.join(DIAGNOSTICS)}.")
    return value


def _add_choices(schema: dict[str, Any]) -> None:
    """Add the choices to the JSON schema of the keys."""
    for name, choices in CHOICES.items():
        schema["properties"][name.replace("_", "-")]["enum"] = list(choices)


def _allowed(words: str) -> Any:
    return Field(json_schema_extra={"allowed": words})


Fraction = Annotated[float, Field(ge=0, le=1)]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
NameOrPath = Annotated[str, Field(pattern=r"\S"), AfterValidator(_check_path), _allowed("a name or path")]
PathOrEmpty = Annotated[str, AfterValidator(_check_path), _allowed("a path, or empty")]
PartName = Literal["", "body", "head", "full"]
Diagnostics = Annotated[str, AfterValidator(_check_diagnostics), _allowed(f"words of {', '.join(DIAGNOSTICS)}")]


class RunConfigKeys(BaseModel):
    """The run-config keys, in the order and groups of pyproject.toml. `num_clients` is the key `num-clients`."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra=_add_choices,
        alias_generator=lambda name: name.replace("_", "-"),
    )

    # Model
    algorithm: str
    protocol: str
    model_name: str
    head_init: str
    head_blocks: NonNegativeInt
    initial_model: PathOrEmpty

    # Data
    dataset: NameOrPath
    image_column: str
    label_column: str
    client_column: str
    test_fraction: FractionBelowOne
    crop_padding: Annotated[int, Field(ge=-1)]
    horizontal_flip: Literal["", "yes", "no"]

    # Clients
    num_clients: PositiveInt
    partition: str
    shards_per_client: PositiveInt
    num_classes_per_client: PositiveInt
    dirichlet_beta: PositiveFloat
    min_examples_per_owner: Annotated[int, Field(ge=2)]
    iid_test_set: bool
    partition_seed: Annotated[int, Field(ge=-1, le=2**63 - 1)]

    # Training
    num_server_rounds: Annotated[int, Field(ge=1, le=10**6)]
    fraction_train: Fraction
    num_local_epochs: PositiveInt
    learning_rate: PositiveFloat
    momentum: FractionBelowOne
    weight_decay: NonNegativeFloat
    batch_size: PositiveInt
    precision: Literal["float32", "tf32", "bf16"]
    server_data_fraction: Fraction
    server_part: PartName
    aggregation_weights: str

    # Evaluation
    num_finetune_epochs: NonNegativeInt
    finetune_part: PartName
    evaluate_every: NonNegativeInt
    evaluated_round: str
    template_distance: str
    template_images: str
    template_batches: str
    record: Diagnostics

    # Variants of single algorithms
    trained_blocks: NonNegativeInt
    head_learning_rate_factor: NonNegativeFloat
    proximal_mu: NonNegativeFloat
    ditto_lambda: NonNegativeFloat
    per_fedavg_beta: NonNegativeFloat
    distillation_weight: NonNegativeFloat
    distillation_divergence: Literal["kl", "mse"]
    distillation_temperature: PositiveFloat

    # Privacy
    dp_clipping_norm: NonNegativeFloat
    dp_noise_multiplier: NonNegativeFloat
    dp_noise_by: Literal["server", "clients"]
    dp_delta: Annotated[float, Field(gt=0, lt=1)]

    # Running
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)]
    results_dir: NameOrPath
    resume: PathOrEmpty
    device: Literal["auto", "cpu", "cuda"]
    keep_personalized: bool
    checkpoint_every: PositiveInt
    client_timeout: NonNegativeFloat
    min_available_clients: NonNegativeInt
    min_fit_clients: PositiveInt
    max_round_retries: NonNegativeInt
    logger: Literal["", "tensorboard", "wandb", "mlflow"]

    @field_validator("*", mode="before")
    @classmethod
    def _fits_into_a_message(cls, value: Any) -> Any:
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise ValueError("Flower's messages carry 64-bit integers.")
        return value

    @field_validator("horizontal_flip", mode="before")
    @classmethod
    def _is_a_word(cls, value: Any) -> Any:
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value

    @field_validator(*CHOICES)
    @classmethod
    def _is_a_choice(cls, value: str, info: ValidationInfo) -> str:
        if value not in CHOICES[str(info.field_name)]:
            raise ValueError("This is not one of the choices.")
        return value
