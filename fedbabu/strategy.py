"""The strategy: FedAvg over the part of the model that the algorithm shares, and over clients rather than nodes.

`SharedPartFedAvg.start` is the loop over rounds. With algorithm = 'fedbabu' it is Algorithm 1 of the paper.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from time import perf_counter, sleep

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result
from torch import Tensor

from fedbabu.algorithms import EvaluationRule
from fedbabu.config import RunConfig
from fedbabu.errors import RunError
from fedbabu.federation.clients import Federation
from fedbabu.federation.delivery import NOT_CONNECTED, RECONNECT_SECONDS
from fedbabu.federation.evaluation import Evaluation, collect_evaluation
from fedbabu.federation.messages import Task, TrainReply
from fedbabu.federation.messenger import NodeMessenger
from fedbabu.runs.best_rounds import BestRound, BestRounds, ClientsBestRounds
from fedbabu.runs.checkpoints import CHECKPOINTS_KEPT, Checkpoint, Checkpoints
from fedbabu.runs.failures import all_diverged, diverged, no_client_evaluated, too_few_clients
from fedbabu.runs.folder import RunFolder
from fedbabu.runs.loggers import Log
from fedbabu.runs.privacy import note_release
from fedbabu.runs.progress import Progress
from fedbabu.runs.records import RoundRecord
from fedbabu.seeding import Purpose, numpy_generator
from fedbabu.training.aggregation import State, weighted_sum
from fedbabu.training.diagnostics import mean_over_clients
from fedbabu.training.privacy import private_mean
from fedbabu.training.server_training import ServerTrainer


class SharedPartFedAvg(FedAvg):
    """Federated averaging of the part of the model that the algorithm shares; the rest keeps its value on the server.

    A client that fails is left out of the mean, and the round's record says why. A round in which too few clients train
    successfully is repeated with others. After the last round every client is evaluated and fine-tuned.

    The run continues from the first of its checkpoints, which are newest first. After each round it is recorded in the
    run folder, printed by `progress` and logged by `log`. If the server has data, the server_trainer trains the global
    model after each aggregation.
    """

    def __init__(
        self,
        config: RunConfig,
        federation: Federation,
        run: RunFolder,
        checkpoints: Sequence[Checkpoint],
        progress: Progress,
        log: Log,
        server_trainer: ServerTrainer | None = None,
    ) -> None:
        super().__init__()
        newest = checkpoints[0]
        self.config = config
        self.federation = federation
        self.run = run
        self.progress = progress
        self.log = log
        self.server_trainer = server_trainer
        self._messenger: NodeMessenger | None = None

        self.global_model: dict[str, Tensor] = dict(newest.model)
        self.record = newest.record or RoundRecord(round=0)  # of the round in progress
        self.history = list(newest.history)  # the records of the rounds that are over
        # For each client that keeps a part of its model, the round in which it was last saved: now, and at checkpoints.
        self.client_state_rounds = dict(newest.client_state_rounds)
        self._checkpointed = {each.server_round: each.needed_client_states for each in checkpoints}
        self._last_trained_round = newest.server_round
        # The model that the clients evaluate after the round: for most algorithms, the global model.
        self.evaluated_model = dict(newest.evaluated_model) if newest.evaluated_model else self.global_model
        self.best_rounds = BestRounds(self._rule, newest.best, newest.clients_best or ClientsBestRounds())
        self.evaluation = Evaluation()  # the last one
        self.best_evaluation = Evaluation()  # of the best round's model; empty if that is the last round's

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 0.0,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the rounds that are left, of num_rounds in all; see Flower's FedAvg for the arguments.

        The timeout is in seconds for each client, 0 for no limit; train_config is the run configuration; evaluate_fn is
        not used, because the server_trainer tests the global model.

        Raises:
            RunError: If the run cannot continue.
        """
        run_config = train_config or ConfigRecord()
        result = Result(arrays=initial_arrays)
        self._messenger = NodeMessenger(self.federation, grid, self.config, self.progress.clients_done)
        self._timeout, self._run_config = timeout, evaluate_config or run_config
        if self._last_trained_round == 0 and self._rule is EvaluationRule.BEST_ROUND_OF_EACH_CLIENT:
            self._compare_with_best_rounds(0, self._evaluate_clients(self.global_model, 0))
        # A run that was interrupted after the training of a round continues with the evaluation of that round.
        trained_before = self.record.round == self._last_trained_round > 0
        for server_round in range(self._last_trained_round + (not trained_before), num_rounds + 1):
            if server_round > self._last_trained_round:
                self.record, started = RoundRecord(round=server_round), perf_counter()
                metrics = None
                while metrics is None:  # a round in which too few clients train successfully is repeated
                    self._begin_attempt()
                    # 1. Sample clients and send them the global model.
                    messages = self.configure_train(server_round, result.arrays, run_config, grid)
                    # 2. Collect what they share after training.
                    replies = self.messenger.send(messages, timeout)
                    # 3. Average it; the part that is not shared stays as it is.
                    arrays, metrics = self.aggregate_train(server_round, replies)
                result.arrays, result.train_metrics_clientapp[server_round] = arrays or result.arrays, metrics
                self.record.train_seconds = perf_counter() - started
                self._last_trained_round = server_round
                # 4. Save a checkpoint, from which the run can be resumed.
                if server_round % self.config.checkpoint_every == 0 or server_round == num_rounds:
                    self.save_checkpoint()
            else:
                started = perf_counter() - self.record.train_seconds
            # 5. Evaluate the global model on all clients; after the last round, fine-tune each of them.
            if server_round == num_rounds:
                self.run.write_model(self.global_model)  # before the evaluation, which may fail
                self.progress.final_evaluation()
            if self._is_evaluated(server_round):
                result.evaluate_metrics_clientapp[server_round] = self._evaluate_round(server_round)
            # 6. After the last round, do the same with the model of the round in which the clients were best.
            if server_round == num_rounds and (best := self.best_rounds.to_evaluate_after(num_rounds)):
                self.run.write_model(best.model, best=True)
                self._evaluate_best(best)
            # 7. Record what happened.
            self.record.seconds = perf_counter() - started
            self.record.evaluate_seconds = self.record.seconds - self.record.train_seconds
            self.history.append(self.record)
            self.run.append_round(self.record)
            self.progress.round(self.record)
            self.log(self.record.to_json())
        return result

    def save_checkpoint(self) -> None:
        """Save the state after the last round whose training is over, unless that was done before."""
        last = self._last_trained_round
        if last in self._checkpointed:
            return
        evaluation_is_due = self.record.round == last and self.record.seconds is None
        record = self.record if evaluation_is_due else None
        client_state_rounds = dict(self.client_state_rounds)
        checkpoint = Checkpoint(
            last,
            self.global_model,
            client_state_rounds,
            self.history,
            record,
            self.best_rounds.overall,
            self.best_rounds.of_each_client if self.best_rounds.of_each_client.rounds else None,
            self.evaluated_model if self._rule is EvaluationRule.BEFORE_AGGREGATION else None,
        )
        Checkpoints(self.run.path).save(checkpoint)
        self._checkpointed[last] = checkpoint.needed_client_states
        for server_round in sorted(self._checkpointed)[:-CHECKPOINTS_KEPT]:
            del self._checkpointed[server_round]

    @property
    def messenger(self) -> NodeMessenger:
        """What sends messages to the nodes, once the rounds have started.

        Raises:
            RunError: If a wrapper, like those of Flower for differential privacy, runs the rounds in place of `start`.
        """
        if self._messenger is None:
            raise RunError(
                "This strategy runs its rounds itself and cannot be wrapped in another: for differential privacy, give "
                "dp-clipping-norm and dp-noise-multiplier."
            )
        return self._messenger

    @property
    def final_client_states(self) -> list[Mapping[int, int]]:
        """The client states of the last round and of the best: for each client, the round in which it was saved."""
        return [self.client_state_rounds, *self.best_rounds.client_state_rounds]

    def sample_clients(self, server_round: int, attempt: int = 1, failed: Collection[int] = ()) -> list[int]:
        """Sample the clients of a round without replacement (Algorithm 1, line 4).

        Without communication, each client takes part in one round, or in a later one if it joins later. In a further
        attempt at a round, clients that failed in it are not sampled again, as long as there are enough others.
        """
        clients = sorted(self.federation.clients)
        if not self.config.algorithm_spec.communicates:
            asked = {client for record in self.history for client in record.clients}
            due = [client for client in clients if client % self.config.num_rounds < server_round]
            return [client for client in due if client not in asked]
        others = [client for client in clients if client not in failed]
        clients = others if len(others) >= self.config.min_fit_clients else clients
        stream = (server_round,) if attempt == 1 else (server_round, attempt - 1)
        rng = numpy_generator(self.config.seed, Purpose.SAMPLING, *stream)
        return sorted(rng.choice(clients, min(self.config.clients_per_round, len(clients)), replace=False).tolist())

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample the clients of a round; returns a message with the global model for each node that trains some."""
        self._look_for_late_nodes()
        record, training_rounds = self.record, self.config.training_rounds(server_round)
        record.clients = self.sample_clients(server_round, record.attempts, record.failed)
        record.learning_rate = self.config.learning_rate_in(training_rounds[-1])
        note_release(self.config, self.run.path, record.clients)
        task = self._task(server_round, record.clients, training_rounds)
        return self.messenger.messages(MessageType.TRAIN, task, arrays, config)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Replace the shared part of the global model by the clients' mean, weighted as aggregation-weights says.

        If the server has data, train the result on it (Section 4; Appendix L).

        Returns:
            The global model and the training losses; or twice None if too few clients trained successfully.

        Raises:
            DivergedError: If training diverged.
        """
        config, record, num_train = self.config, self.record, self.federation.num_train
        num_accuracies = self._num_class_accuracies(server_round)
        weights = {client: config.aggregation_weight(number) for client, number in num_train.items()}
        nodes = list(self.messenger.parse(replies, TrainReply, num_train, weights, self._shared_part, num_accuracies))
        failed = self.messenger.failed
        results = {client: result for node in nodes for client, result in node.results.items()}
        record.failed = {c: reason for c, reason in record.failed.items() if c not in record.clients} | failed
        if all_diverged(failed) and len(failed) > 1 and not results:
            raise diverged(config, record, f"the loss of all {len(failed)} clients", failed)
        enough = len(results) >= config.min_fit_clients or not config.clients_per_round
        if not enough and config.algorithm_spec.communicates:
            return None, None
        model = dict(self.global_model)
        record.num_examples = sum(node.num_examples for node in nodes)
        if results:
            sums = weighted_sum((node.update, node.weight) for node in nodes)
            total_weight = sum(weights[client] for client in results)
            mean = {name: (value / total_weight).to(model[name].dtype) for name, value in sums.items()}
            model |= private_mean(mean, len(results), config, server_round, secret=self.federation.local_data)
            loss_sum = sum(results[client].loss * num_train[client] for client in sorted(results))
            record.train_loss = loss_sum / record.num_examples
        if num_accuracies and results:
            record.in_class = mean_over_clients([result.in_class for result in results.values()])
            record.out_of_class = mean_over_clients([result.out_of_class for result in results.values()])
        if self.server_trainer:
            try:
                model, record.server_loss = self.server_trainer.train(model, server_round)
            except FloatingPointError as error:
                raise diverged(config, record, "the loss on the server") from error
        self.evaluated_model = self.global_model if self._rule is EvaluationRule.BEFORE_AGGREGATION else model
        self.global_model = model
        if config.algorithm_spec.keeps:
            saved = dict.fromkeys(results, server_round)
            only_evaluated = self._rule is EvaluationRule.BEFORE_AGGREGATION
            self.client_state_rounds = saved if only_evaluated else self.client_state_rounds | saved
        named_losses = {"train-loss": record.train_loss, "server-loss": record.server_loss}
        metrics = MetricRecord({name: loss for name, loss in named_losses.items() if loss is not None})
        return ArrayRecord(model), metrics

    def _evaluate_round(self, server_round: int) -> MetricRecord:
        """Evaluate all clients after a round; its record gets their mean accuracy before fine-tuning.

        Clients are fine-tuned after the last round or, for algorithms whose code does that, after every round.
        """
        if self.server_trainer:
            self.record.test_accuracy = self.server_trainer.test_accuracy(self.global_model)
        every_round = self._rule is EvaluationRule.PERSONALIZED_EVERY_ROUND
        personalize = every_round or server_round == self.config.num_rounds
        self.evaluation = self._evaluate_clients(self.evaluated_model, server_round, personalize)
        self.record.initial_accuracy = self.evaluation.mean_accuracy(0)
        self.record.missing = self.evaluation.missing
        if every_round:
            self.record.personalized_accuracy = self.evaluation.mean_accuracy(-1)
        self._compare_with_best_rounds(server_round, self.evaluation)
        return MetricRecord({"initial-accuracy": self.record.initial_accuracy})

    def _compare_with_best_rounds(self, server_round: int, evaluation: Evaluation) -> None:
        """Keep the models of the round that was evaluated, if it is the best so far."""
        self.best_rounds.consider(
            server_round, evaluation, self.evaluated_model, self.client_state_rounds, self._shared_part,
            evaluate=lambda model, states: self._evaluate_clients(model, server_round, states=states),
        )  # fmt: skip

    def _evaluate_best(self, best: BestRound) -> None:
        """Evaluate and fine-tune every client from the models of the best round.

        Random numbers and the learning rate are those of the last round, unless clients are fine-tuned in every round.
        """
        every_round = self._rule is EvaluationRule.PERSONALIZED_EVERY_ROUND
        server_round = best.server_round if every_round else self.config.num_rounds
        self.best_evaluation = self._evaluate_clients(best.model, server_round, True, best.client_state_rounds)

    def _evaluate_clients(
        self, model: State, server_round: int, personalize: bool = False, states: Mapping[int, int] | None = None
    ) -> Evaluation:
        """Evaluate all clients with a model, and with the random numbers of a round; fine-tune them if asked to.

        They start from their client states of now, or from those of the given round for each client.

        Raises:
            RunError: If no client could be evaluated.
        """
        self._look_for_late_nodes()
        task = self._task(server_round, self._clients_with_model(), [], personalize, states)
        messages = self.messenger.messages(MessageType.EVALUATE, task, ArrayRecord(dict(model)), self._run_config)
        replies = self.messenger.send(messages, self._timeout)
        untrained = self._untrained_clients()
        not_asked = {client: f"it never trained: {reason}" for client, reason in untrained.items()}
        not_asked |= dict.fromkeys(self._absent_clients(), NOT_CONNECTED)
        evaluation = collect_evaluation(self.messenger, replies, self.config, self.global_model, personalize, not_asked)
        if not evaluation.results:
            raise no_client_evaluated(self.config, self.record, self.messenger.failed, untrained)
        return evaluation

    @property
    def _shared_part(self) -> dict[str, Tensor]:
        """The part of the global model that the algorithm shares, as a state dict."""
        shared = self.config.algorithm_spec.shares.names(self.global_model)
        return {name: self.global_model[name] for name in shared}

    @property
    def _rule(self) -> EvaluationRule:
        return self.config.algorithm_spec.evaluation

    def _untrained_clients(self) -> dict[int, str]:
        """Without communication, the clients that have no model, with the reason; otherwise none."""
        if not (clients := self.federation.clients.keys() - set(self._clients_with_model())):
            return {}
        records = [*self.history, self.record]
        reasons = {client: reason for record in records for client, reason in record.failed.items()}
        return {client: reasons.get(client, "it joined after the last round") for client in sorted(clients)}

    def _absent_clients(self) -> list[int]:
        """The clients that no node has offered so far."""
        return [client for client in range(self.config.num_clients) if client not in self.federation.clients]

    def _look_for_late_nodes(self) -> None:
        """Let nodes that have connected since the start serve clients that no connected node serves."""
        if self.messenger.late_nodes.look():
            self.run.record_clients(self.federation)

    def _begin_attempt(self) -> None:
        """Count an attempt to train the round, after a pause if nodes had disconnected; too many raise a RunError."""
        config, record = self.config, self.record
        if record.attempts > config.max_round_retries:
            raise too_few_clients(config, record)
        if NOT_CONNECTED in record.failed.values():
            sleep(RECONNECT_SECONDS)
        record.attempts += 1

    def _task(
        self,
        server_round: int,
        clients: list[int],
        training_rounds: list[int],
        personalize: bool = False,
        start_states: Mapping[int, int] | None = None,
    ) -> Task:
        """A task for clients, whose states of now, of the best round and of checkpoints must not be deleted.

        They start from their states of now, or from those of the rounds in start_states, as after the best round. In
        the final evaluation, their fine-tuned models are kept of the round that the results are of.
        """
        config = self.config
        final = personalize and self._last_trained_round == config.num_rounds
        are_results = start_states is None or config.evaluated_round == "best"
        needed: list[Mapping[int, int]] = [self.client_state_rounds if start_states is None else start_states]
        needed += self.final_client_states
        needed += [states for of_checkpoint in self._checkpointed.values() for states in of_checkpoint]
        return Task(
            run=str(self.run.path),
            run_id=self.run.recorded["run-id"],
            server_round=server_round,
            clients={client: list(dict.fromkeys(at.get(client, 0) for at in needed)) for client in clients},
            training_rounds=training_rounds,
            last_sampled_client=self._last_sampled_client(server_round),
            class_names=self.federation.class_names if self.federation.local_data else (),
            data_checksums={client: self.federation.clients[client].checksum for client in clients},
            personalize=personalize,
            keep_models=config.keep_personalized and final and are_results,
        )

    def _last_sampled_client(self, server_round: int) -> int:
        """The client that was sampled last in a round."""
        records = (record for record in (self.record, *self.history) if record.round == server_round)
        clients = next((record.clients for record in records), [])
        return clients[-1] if clients else 0

    def _is_evaluated(self, server_round: int) -> bool:
        """Whether all clients are evaluated after a round; without communication, only after the last round."""
        every = self.config.evaluate_every if self.config.algorithm_spec.communicates else 0
        return server_round == self.config.num_rounds or bool(every and server_round % every == 0)

    def _clients_with_model(self) -> list[int]:
        """The clients to evaluate: all; or without communication, those that trained a model of their own."""
        clients = sorted(self.federation.clients)
        if self.config.algorithm_spec.communicates:
            return clients
        return [client for client in clients if client in self.client_state_rounds]

    def _num_class_accuracies(self, server_round: int) -> int:
        """How many in-class accuracies a sampled client records in a round: before and after each of its epochs."""
        if "class-accuracy" not in self.config.diagnostics:
            return 0
        return (1 + self.config.total_local_epochs) * len(self.config.training_rounds(server_round))
