"""A client's fine-tuning: personalization in the final evaluation, measured after every epoch (Section 3)."""

from torch import Tensor

from fedbabu.algorithms import TrainedOn
from fedbabu.seeding import Purpose, torch_generator
from fedbabu.training.aggregation import State
from fedbabu.training.client import Client
from fedbabu.training.diagnostics import WeightDirections
from fedbabu.training.evaluation import ClientEvaluation, ClientResult
from fedbabu.training.local_sgd import Deadline, check_finite
from fedbabu.training.without_head import without_head_accuracies


def fine_tune_client(
    client: Client, client_state: State, server_round: int, last_sampled_client: int
) -> tuple[ClientResult, dict[str, Tensor]]:
    """Fine-tune one client's model on its training examples, and measure it before and after every epoch.

    The random numbers are those of the server round. The client that was sampled last matters for a phase that trains
    on its test images. Raises what `train_client` raises.

    Returns:
        The accuracies, and `WeightDirections.directions`, which are empty if they are not recorded.
    """
    config, model = client.config, client.model
    deadline, examples = Deadline(config.client_timeout), client.examples("train")
    client.reset_model(client_state)
    classes = examples.labels if config.iid_test_set else None
    evaluation = ClientEvaluation(model, client.examples("test"), client.dataset.transform, classes)
    test_features, generator = evaluation.measure(), torch_generator(config.seed, Purpose.TEMPLATES, client.id)
    evaluation.result.without_head_accuracy = without_head_accuracies(
        model, examples, test_features, evaluation.test.labels, client.dataset.transform, generator
    )
    weights = WeightDirections(model)
    after_epoch = [deadline.check, evaluation.measure]
    if "similarity" in config.diagnostics:
        weights.note()
        after_epoch.append(weights.note)
    generator = torch_generator(config.seed, Purpose.FINE_TUNING, server_round, client.id)
    algorithm, learning_rate = config.algorithm_spec, config.finetune_learning_rate_after(server_round)
    velocities: dict[str, Tensor] | None = {} if algorithm.one_optimizer else None
    for phase in algorithm.personalizes:
        tuning, tuned_on = client, examples
        if phase.trains_on is TrainedOn.TEST_IMAGES_OF_LAST_SAMPLED_CLIENT:
            tuning, tuned_on = client.without_augmentation(), client.examples("test", last_sampled_client)
        tuning.train_model(
            tuned_on, [phase], generator, config.num_finetune_epochs, learning_rate, after_epoch, velocities
        )
    deadline.check()
    check_finite(*evaluation.result.loss)
    return evaluation.result, weights.directions
