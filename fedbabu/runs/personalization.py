"""A finished run's model, fine-tuned to the images of someone who was not part of its training."""

from dataclasses import replace

from fedbabu.algorithms import TrainedOn
from fedbabu.config import RunConfig
from fedbabu.data.dataset import ImageDataset, open_dataset
from fedbabu.data.known import KNOWN_DATASETS
from fedbabu.data.partitions.partition import too_small_client, whole_dataset
from fedbabu.data.source import DataSpec
from fedbabu.errors import ConfigError, RunError
from fedbabu.formatting import image_in_words, listed
from fedbabu.runs.classifier import Classifier
from fedbabu.runs.folder import RunFolder
from fedbabu.training.client import Client
from fedbabu.training.device import training_device
from fedbabu.training.evaluation import ClientResult
from fedbabu.training.fine_tuning import fine_tune_client

NEW_CLIENT = 0  # the number from which the random numbers of a new client are drawn


def personalize(
    run: RunFolder, data: DataSpec, part: str = "", num_epochs: int | None = None, device: str = "auto"
) -> tuple[ClientResult, Classifier]:
    """Fine-tune a run's global model, of the round that its results are of, as the run fine-tunes its clients.

    Args:
        run: A finished run.
        data: The new client's images; its classes must be among those of the run.
        part: The part to fine-tune, "head", "body" or "full"; empty for the run's own.
        num_epochs: The number of epochs; None for the run's own.
        device: "auto", "cpu" or "cuda".

    Returns:
        The accuracies on the test images before fine-tuning and after each epoch, and the fine-tuned model.

    Raises:
        RunError: If the run is not finished, has no global model, or fine-tunes nothing and no part or no number of
            epochs was given.
        ConfigError: If the data do not fit the run.
    """
    if not run.finished:
        raise RunError(f"{run.path} is not the folder of a finished run.")
    if not run.run_config.algorithm_spec.communicates:
        name = run.config["algorithm"]
        raise RunError(f"The run in {run.path} has no global model, because algorithm = '{name}' averages nothing.")
    given = {"device": device, "finetune-part": part, "num-finetune-epochs": num_epochs}
    changed = {key: value for key, value in given.items() if value not in ("", None)}
    config = RunConfig.from_recorded(run.config | changed)
    if any(phase.trains_on is not TrainedOn.TRAINING_IMAGES for phase in config.algorithm_spec.personalizes):
        raise RunError(f"The run in {run.path} adapts its clients to test images, as the authors' code does.")
    if not (config.algorithm_spec.personalizes or num_epochs == 0):
        raise RunError(
            f"The run in {run.path} fine-tunes nothing, and so does not say what to fine-tune here: give the part "
            "(head, body or full) and the number of epochs."
        )
    dataset = _as_the_run_saw_it(open_dataset(with_augmentation(data, run)), run)
    partition = whole_dataset(dataset, NEW_CLIENT, config.seed)
    if too_small := too_small_client(NEW_CLIENT, *(len(dataset.labels[split]) for split in ("train", "test"))):
        raise ConfigError(f"'{data.dataset}' cannot be used: {too_small}.")
    model, global_model = (run.build_model().to(training_device(device)) for _ in range(2))
    global_model.load_state_dict(run.result_model())
    client = Client(NEW_CLIENT, config, dataset, partition, model, global_model.eval())
    result, _ = fine_tune_client(client, {}, config.num_rounds, NEW_CLIENT)
    return result, Classifier.of_client(client)


def with_augmentation(data: DataSpec, run: RunFolder) -> DataSpec:
    """The dataset with the augmentation of a run: by its keys, or else of the known dataset that it had."""
    spec, known = run.run_config.data_spec, KNOWN_DATASETS.get(run.dataset["name"])
    padding, flip = spec.crop_padding, spec.flip
    if known and padding < 0 and known.crop_padding is not None:
        padding = known.crop_padding
    return replace(data, crop_padding=padding, flip=known.flip if known and flip is None else flip)


def _as_the_run_saw_it(dataset: ImageDataset, run: RunFolder) -> ImageDataset:
    """The dataset with the classes and the normalization of a run; raises a ConfigError if it does not fit the run."""
    image_shape, class_names = tuple(run.dataset["image-shape"]), tuple(run.recorded.get("class-names", ()))
    if dataset.image_shape != image_shape:
        raise ConfigError(
            f"The images of '{dataset.name}' are {image_in_words(dataset.image_shape)}: they must be "
            f"{image_in_words(image_shape)}, as in the run."
        )
    if unknown := [name for name in dataset.class_names if name not in class_names]:
        raise ConfigError(
            f"'{dataset.name}' has the classes {listed(unknown)}, which are not among those of the run: "
            f"{listed(class_names)}."
        )
    normalization = run.recorded.get("normalization")  # none if every node had its own
    if normalization:
        mean, std = tuple(normalization["mean"]), tuple(normalization["std"])
        dataset = replace(dataset, transform=replace(dataset.transform, mean=mean, std=std))
    return dataset.with_class_names(class_names)
