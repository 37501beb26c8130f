"""Why a run stops: the errors of rounds and evaluations in which clients failed, in sentences for the user."""

from collections.abc import Mapping

from fedbabu.config import RunConfig
from fedbabu.errors import DivergedError, NotResumableError, RunError
from fedbabu.federation.messages import NOT_FINITE
from fedbabu.federation.reply_checks import MAX_REASON_LENGTH
from fedbabu.formatting import counted, format_failures
from fedbabu.runs.records import RoundRecord


def all_diverged(failed: Mapping[int, str]) -> bool:
    """Whether clients failed, given the reason of each, and all of them because their loss was not finite."""
    return bool(failed) and all(reason.startswith(NOT_FINITE) for reason in failed.values())


def diverged(
    config: RunConfig, record: RoundRecord, diverged_loss: str, failed: Mapping[int, str] | None = None
) -> DivergedError:
    """The error of a run whose training diverged, with the keys that may be why.

    The reasons with which clients failed say where they were in their training, if they train several rounds.
    """
    places = [reason.removeprefix(NOT_FINITE) for reason in (failed or {}).values()]
    where = next(filter(None, places), f" in round {record.round}, at learning rate {record.learning_rate:g}")
    remedy = f"a learning-rate below {config.learning_rate:g}"
    if changed := config.changed_training_keys:
        others = ", ".join(f"{key} = {given!r} (default {default!r})" for key, (given, default) in changed.items())
        remedy += f", or first with the default of what was changed: {others}"
    return DivergedError(f"Training diverged{where}: {diverged_loss} is not finite. Start a new run with {remedy}.")


def too_few_clients(config: RunConfig, record: RoundRecord) -> RunError:
    """The error of a round in which too few clients trained successfully in all attempts."""
    if all_diverged(record.failed):
        return diverged(config, record, "the loss of every client that was tried")
    needed = counted(config.min_fit_clients, "client")
    return RunError(
        f"Round {record.round} was tried {counted(record.attempts, 'time')}, but never had {needed} (min-fit-clients) "
        f"that trained successfully: {format_failures(record.failed, MAX_REASON_LENGTH)}."
    )


def no_client_evaluated(
    config: RunConfig, record: RoundRecord, failed: Mapping[int, str], untrained: Mapping[int, str]
) -> RunError:
    """The error of an evaluation without any result.

    Args:
        config: The run configuration.
        record: The record of the round.
        failed: Why clients that were asked failed.
        untrained: Why clients that were not asked have no model, which happens without communication.
    """
    if all_diverged(failed):
        return diverged(config, record, f"the loss of all {len(failed)} clients in their evaluation")
    if all_diverged(untrained):
        return diverged(config, record, f"the loss of all {len(untrained)} clients", untrained)
    if not failed:  # all rounds are over, so that a resume would not help
        return NotResumableError(f"No client trained successfully: {format_failures(untrained, MAX_REASON_LENGTH)}.")
    reasons = format_failures({**untrained, **failed}, MAX_REASON_LENGTH)
    return RunError(f"No client could be evaluated after round {record.round}: {reasons}.")
