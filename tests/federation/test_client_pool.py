"""A node works for as many clients at a time as it has CPUs, one thread each, and results do not depend on how many."""

from threading import Barrier

import pytest
import torch
from support.in_process import essence, run_server, tasks

from fedbabu.federation import client_pool, node, pace
from fedbabu.federation.client_pool import for_each_client


def test_so_many_clients_are_worked_for_at_a_time_with_one_thread_each():
    together, threads = Barrier(3, timeout=10), torch.get_num_threads()

    def work(client: int) -> tuple[int, int]:
        together.wait()  # passes when three clients have got here
        return client, torch.get_num_threads()

    assert list(for_each_client(range(6), work, 3, 1)) == [(client, (client, 1)) for client in range(6)]
    assert torch.get_num_threads() == threads


def test_one_client_may_have_all_threads():
    ((client, threads),) = for_each_client([4], lambda client: torch.get_num_threads(), 1, 5)
    assert (client, threads) == (4, 5)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_client_that_fails_does_not_stop_the_others(concurrency):
    failed, *others = for_each_client([0, 1, 2], lambda client: 1 / client, concurrency, 1)
    assert failed[0] == 0
    assert isinstance(failed[1], ZeroDivisionError)
    assert others == [(1, 1.0), (2, 0.5)]


@pytest.mark.parametrize("algorithm", ["fedper", "fedbsd", "fedavg"])
def test_the_number_of_cpus_of_a_node_changes_nothing_about_the_results(tiny_config, monkeypatch, algorithm):
    config = tiny_config | {"algorithm": algorithm, "record": "" if algorithm == "fedper" else "similarity"}
    one_cpu, _ = run_server(config)
    for module in (client_pool, node):
        monkeypatch.setattr(module, "num_cpus", lambda: 3)
    monkeypatch.setattr(pace, "FIRST_PORTION", 1)
    three_cpus, grid = run_server(config | {"results-dir": config["results-dir"] + "-three"})
    assert [len(task.clients) for task in tasks(grid, "train")][:2] == [3, 1]
    assert essence(three_cpus) == essence(one_cpu)


@pytest.mark.parametrize(
    ("available", "of_node", "num_nodes", "sentence"),
    [
        (2, 2, 2, ""),  # Flower's default on two cores
        (4, 2, 2, ""),
        (8, 2, 2, 'on 4 of 8 CPUs; --federation-config "num-supernodes=4 client-resources-num-cpus=2" uses 8'),
        (3, 2, 2, 'on 2 of 3 CPUs; --federation-config "num-supernodes=3 client-resources-num-cpus=1" uses 3'),
        (4, 2, 8, 'on 2 of 4 CPUs; --federation-config "num-supernodes=8 client-resources-num-cpus=1" uses 4'),
        (4, 1, 8, ""),
        (64, 1, 8, ""),  # there are not more clients
        (64, 1, 3, 'on 3 of 64 CPUs; --federation-config "num-supernodes=8 client-resources-num-cpus=1" uses 8'),
    ],
)
def test_a_simulation_says_how_unused_cpus_are_used(
    tiny_config, monkeypatch, capsys, available, of_node, num_nodes, sentence
):
    monkeypatch.setattr(node, "is_ray_worker", lambda: True)
    monkeypatch.setattr(node, "num_cpus_for_workers", lambda: available)
    for module in (client_pool, node):
        monkeypatch.setattr(module, "num_cpus", lambda: of_node)
    run_server(tiny_config | {"num-server-rounds": 1, "num-finetune-epochs": 0}, num_nodes=num_nodes)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Clients are trained")]
    assert lines == ([f"Clients are trained {sentence}"] if sentence else [])


@pytest.mark.parametrize(("precision", "mentioned"), [("float32", True), ("bf16", False)])
def test_on_a_processor_with_amx_a_run_mentions_bf16(tiny_config, monkeypatch, capsys, precision, mentioned):
    monkeypatch.setattr(node, "has_amx", lambda: True)
    run_server(tiny_config | {"num-server-rounds": 1, "num-finetune-epochs": 0, "precision": precision})
    assert ("AMX: precision = 'bf16'" in capsys.readouterr().out) == mentioned
