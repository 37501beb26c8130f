"""A run on a small disk that fails: `unshare -rm python small_disk.py <disk> <fault>`.

The process has its own mounts. It mounts the folder <disk>, and runs the run config in the environment variable CONFIG
there. The disk is either full after some writes (<fault> is "full"), or its folder of checkpoints becomes read-only
after round 3 ("read-only"). Then the fault is repaired and the run is resumed. The result is printed as JSON: the error
of the run, the algorithm and the number of rounds that the run folder had before it was resumed, and whether the
resumed run ended as a run without a fault.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import torch

from fedbabu.errors import RunError
from fedbabu.runs.folder import RunFolder
from support.in_process import essence, run_server

SIZES = {"full": "size=1300k", "read-only": "size=64m"}  # the model of the run has half a megabyte


def mount(*arguments: str | Path) -> None:
    """Mount, or change a mount."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def main(disk: str, fault: str) -> None:
    """Make the run without a fault, the run with the fault, and resume the latter."""
    torch.set_num_threads(1)
    config = json.loads(os.environ["CONFIG"])
    mount("-t", "tmpfs", "-o", "size=64m", "none", disk)
    undisturbed = essence(run_server(config | {"results-dir": f"{disk}/undisturbed"})[0])
    subprocess.run(["umount", disk], check=True)

    mount("-t", "tmpfs", "-o", SIZES[fault], "none", disk)
    append_round = RunFolder.append_round

    def append_and_protect(run: RunFolder, record) -> None:
        append_round(run, record)
        if fault == "read-only" and record.round == 3:
            mount("--bind", run.path / "checkpoints", run.path / "checkpoints")
            mount("-oremount,bind,ro", run.path / "checkpoints")

    error = None
    with patch.object(RunFolder, "append_round", append_and_protect):
        try:
            run_server(config)
        except RunError as stopped:
            error = str(stopped)
    (folder,) = Path(config["results-dir"]).iterdir()
    run = RunFolder(folder)
    before = {"error": error, "algorithm": run.config["algorithm"], "rounds": len(run.rounds)}

    if fault == "read-only":
        subprocess.run(["umount", folder / "checkpoints"], check=True)
    else:
        mount("-o", "remount,size=64m", disk)
    resumed, _ = run_server(config | {"resume": str(folder)})
    print(json.dumps(before | {"same": essence(resumed) == undisturbed}))


if __name__ == "__main__":
    main(*sys.argv[1:])
