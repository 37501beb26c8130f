"""The benchmark's parts that need no run: they use what is inside of the package, and must follow its changes."""

import torch
from safetensors.torch import save_file
from support import PROJECT

from fedbabu.config import RunConfig


def test_the_breakdown_of_a_round(monkeypatch, tiny_config):
    monkeypatch.syspath_prepend(str(PROJECT / "tests" / "benchmarks"))
    import breakdown

    config = RunConfig.from_flower(tiny_config)
    shares = breakdown.shares_of_training(config)
    assert shares.keys() == {"data", "forward", "backward", "step"}
    assert all(share > 0 for share in shares.values())
    assert sum(shares.values()) < 1
    assert 0 < breakdown.aggregation_seconds(config, 2) < 1
    assert breakdown.mflop_per_image(config) > 0
    assert breakdown.seconds_of_step(config, "bf16") > 0


def test_the_loops_of_other_code_bases_train(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(PROJECT / "tests" / "benchmarks"))
    import peers

    monkeypatch.setattr(peers, "NUM_CLIENTS", 3)
    monkeypatch.setattr(peers, "EPOCHS", 1)
    steps = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *given, **named: steps.append(step(*given, **named)))
    pixels = torch.randint(256, (2, 20, 32, 32, 3), dtype=torch.uint8)
    save_file({"pixels": pixels, "labels": torch.arange(20).repeat(2, 1) % 2}, tmp_path / "images")
    for name in peers.PEERS:
        monkeypatch.setattr("sys.stdin", iter(["\n"]))
        peers.main(str(tmp_path / "images"), name)
    assert len(steps) == len(peers.PEERS) * 2
