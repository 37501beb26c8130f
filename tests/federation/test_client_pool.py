"""A node works for as many clients at a time as it has CPUs, one thread each, and results do not depend on how many."""

import re
from threading import Barrier
from time import sleep
from types import SimpleNamespace

import pytest
import torch
from support.in_process import essence, run_server, tasks
from support.local_data import LOCAL_DATA, nodes_with_local_data

from fedbabu.federation import client_pool, node, pace, ray_workers
from fedbabu.federation.client_pool import for_each_client


def test_so_many_clients_are_worked_for_at_a_time_with_so_many_threads_each():
    together = Barrier(3, timeout=10)

    def work(client: int) -> tuple[int, int]:
        together.wait()  # passes when three clients have got here
        return client, torch.get_num_threads()

    assert torch.get_num_threads() == 1
    assert list(for_each_client(range(6), work, 3, 2)) == [(client, (client, 2)) for client in range(6)]
    assert torch.get_num_threads() == 1


def test_one_client_may_have_all_threads():
    assert list(for_each_client([4], lambda client: torch.get_num_threads(), 1, 5)) == [(4, 5)]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_client_that_fails_does_not_stop_the_others(concurrency):
    failed, *others = for_each_client([0, 1, 2], lambda client: 1 / client, concurrency, 1)
    assert failed[0] == 0
    assert isinstance(failed[1], ZeroDivisionError)
    assert others == [(1, 1.0), (2, 0.5)]


def test_no_client_is_worked_for_after_an_error_of_the_caller():
    worked_for, both = [], Barrier(2, timeout=10)

    def work(client: int) -> None:
        sleep(0.02)
        worked_for.append(client)

    iterator = for_each_client(range(50), work, 2, 1)
    next(iterator)
    iterator.close()  # as when the loop over it ends with an error
    before = len(worked_for)
    list(for_each_client([50, 51], lambda client: both.wait(), 2, 1))  # when both threads are free
    assert len(worked_for) == before < 50


def test_a_nodes_cpus_are_those_that_ray_has_assigned(monkeypatch):
    monkeypatch.setattr(client_pool, "num_cpus", client_pool.num_cpus.__wrapped__)
    assert client_pool.num_cpus() == torch.get_num_threads()
    monkeypatch.setattr(client_pool, "is_ray_worker", lambda: True)
    assigned = {}
    context = SimpleNamespace(get_assigned_resources=lambda: assigned)
    monkeypatch.setitem(ray_workers.sys.modules, "ray", SimpleNamespace(get_runtime_context=lambda: context))
    for cpus, expected in ((3.0, 3), (0.5, 1)):
        assigned["CPU"] = cpus
        assert client_pool.num_cpus() == expected


@pytest.fixture
def node_with_cpus(monkeypatch):
    """A function that gives nodes a number of CPUs."""
    return lambda number: monkeypatch.setattr(node, "num_cpus", lambda: number)


@pytest.mark.parametrize("algorithm", ["fedper", "fedbsd", "fedavg"])
def test_the_number_of_cpus_of_a_node_changes_nothing_about_the_results(
    tiny_config, monkeypatch, node_with_cpus, algorithm
):
    config = tiny_config | {"algorithm": algorithm, "record": "" if algorithm == "fedper" else "similarity"}
    one_cpu, _ = run_server(config)
    node_with_cpus(3)
    monkeypatch.setattr(pace, "FIRST_PORTION", 1)
    three_cpus, grid = run_server(config | {"results-dir": config["results-dir"] + "-three"})
    assert [len(task.clients) for task in tasks(grid, "train")][:2] == [3, 1]
    assert essence(three_cpus) == essence(one_cpu)


def test_a_node_with_local_data_has_all_its_cpus_for_its_client(tiny_config, tmp_path, monkeypatch, node_with_cpus):
    node_with_cpus(3)
    asked = []
    monkeypatch.setattr(
        "fedbabu.client_work.for_each_client", lambda *given: asked.append(given[2:]) or for_each_client(*given)
    )
    config = tiny_config | LOCAL_DATA | {"num-server-rounds": 1, "num-finetune-epochs": 0}
    run_server(config, node_configs=nodes_with_local_data(tmp_path))
    assert set(asked) == {(1, 3)}


@pytest.mark.parametrize(
    ("machines", "of_node", "num_nodes", "fraction", "said"),
    [
        ([2], 2, 2, 1.0, ()),  # Flower's default on two cores
        ([4], 2, 2, 1.0, ()),
        ([8], 2, 2, 1.0, (4, 8, 4, 2, 8)),
        ([8], 2, 2, 0.5, ()),  # a round has four clients
        ([8], 2, 2, 0.75, (4, 8, 3, 2, 6)),
        ([7], 3, 2, 1.0, (6, 7, 7, 1, 7)),
        ([3], 2, 2, 1.0, (2, 3, 3, 1, 3)),
        ([3, 3], 2, 2, 1.0, (4, 6, 6, 1, 6)),
        ([4], 2, 8, 1.0, (2, 4, 8, 1, 4)),
        ([4], 1, 8, 1.0, ()),
        ([64], 1, 8, 1.0, ()),  # there are not more clients
        ([64], 1, 3, 1.0, (3, 64, 8, 1, 8)),
    ],
)
def test_a_simulation_says_how_unused_cpus_are_used(
    tiny_config, monkeypatch, capsys, node_with_cpus, machines, of_node, num_nodes, fraction, said
):
    monkeypatch.setattr(node, "is_ray_worker", lambda: True)
    monkeypatch.setattr(node, "cpus_of_machines", lambda: machines)
    node_with_cpus(of_node)
    config = tiny_config | {"num-server-rounds": 1, "num-finetune-epochs": 0, "fraction-train": fraction}
    run_server(config, num_nodes=num_nodes)
    sentence = (
        r"^Clients are trained on (\d+) of (\d+) CPUs; --federation-config "
        r'"num-supernodes=(\d+) client-resources-num-cpus=(\d+)" uses (\d+)$'
    )
    found = re.findall(sentence, capsys.readouterr().out, flags=re.MULTILINE)
    assert [tuple(map(int, numbers)) for numbers in found] == ([said] if said else [])


@pytest.mark.parametrize(("precision", "mentioned"), [("float32", True), ("bf16", False)])
def test_on_a_processor_with_amx_a_run_mentions_bf16(tiny_config, monkeypatch, capsys, precision, mentioned):
    monkeypatch.setattr(node, "has_amx", lambda: True)
    run_server(tiny_config | {"num-server-rounds": 1, "num-finetune-epochs": 0, "precision": precision})
    assert ("AMX: precision = 'bf16'" in capsys.readouterr().out) == mentioned
