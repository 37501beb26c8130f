"""The federation of docs/federation.md on loopback: a SuperLink and four SuperNodes, as processes of their own."""

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from fedbabu.reproduction.local_superlink import STOP_SECONDS, flower_environment, free_port, stop
from fedbabu.runs.folder import RunFolder
from support import PROJECT
from support.flower import BIN

PAGE = PROJECT / "docs" / "federation.md"
SECTION = "A trial on one machine"
CONNECTED = "SuperNode ID:"  # what a SuperNode logs once the SuperLink has let it in
SECONDS = 300  # that anything here may take


def steps() -> list[str]:
    """The commands of the page, step by step, without the indentation of a list."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {SECTION}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)
    return [re.sub(r"^ {3}", "", block, flags=re.MULTILINE) for block in blocks]


def without_security(step: str) -> str:
    """The same commands without TLS and authentication."""
    step = re.sub(r"--(ssl-ca-certfile|ssl-certfile|ssl-keyfile) \S+", "", step)
    step = step.replace("--enable-supernode-auth", "--insecure")
    step = re.sub(r"--auth-supernode-private-key \S+", "", step)
    step = step.replace("--root-certificates trial/credentials/ca.crt", "--insecure")
    step = re.sub(r"root-certificates = .*", "insecure = true", step)
    return re.sub(r"^ *until flwr supernode register.*$", "", step, flags=re.MULTILINE)


def free_ports(number: int) -> int:
    """The first of several TCP ports in a row on which no process listens at the moment."""
    while True:
        first = free_port()
        with suppress(OSError, OverflowError), ExitStack() as servers:
            for port in range(first, first + number):
                servers.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


class Deployment:
    """The processes of the federation, in a folder of their own.

    Args:
        folder: Where the commands are executed.
        secure: Whether there are TLS and authentication.
    """

    def __init__(self, folder: Path, secure: bool) -> None:
        self.folder = folder
        self.secure = secure
        self.port = free_port()
        state = str(folder / "trial" / "state")  # as the page says
        self.environment = flower_environment(str(folder / "flwr"), self.port)
        self.environment |= {"OMP_NUM_THREADS": "1", "FEDBABU_STATE": state}
        self.first_node_port = free_ports(4)
        make, start_superlink, start_nodes, *_ = steps()
        for step in (make, start_superlink, start_nodes):
            output = self.execute(step)
            assert "Traceback" not in output, output
        for number in range(4):
            self.wait_until_connected(number)

    def execute(self, step: str) -> str:
        """Execute commands of the page, with ports that are free and the app's folder; returns what they print.

        What they leave in the background goes on.
        """
        step = step if self.secure else without_security(step)
        step = step.replace("conf/deployment", str(PROJECT / "conf" / "deployment"))
        step = step.replace("flwr run .", f"flwr run {PROJECT}")
        step = step.replace("8000", str(self.port)).replace("--port 910$n", f"--port $(({self.first_node_port} + $n))")
        result = subprocess.run(
            ["bash", "-c", f"set -e\n{step}"], cwd=self.folder, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout
        return result.stdout

    def start_run(self, **keys: str | int | bool) -> subprocess.Popen:
        """Start training as the page says, with some keys changed."""
        command = [BIN / "flwr", "run", PROJECT, "trial", "--stream", "--run-config", self.overrides(**keys)]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    @staticmethod
    def overrides(**keys: str | int | bool) -> str:
        """The run config of the page, with some keys changed."""
        (given,) = re.findall(r'--run-config "(.*)"', steps()[3])
        for key, value in keys.items():
            name, text = key.replace("_", "-"), f"'{value}'" if isinstance(value, str) else str(value).lower()
            given = re.sub(rf"(^| ){name}=\S+", "", given) + f" {name}={text}"
        return given.strip()

    def node(self, number: int) -> psutil.Process:
        """The process of a SuperNode."""
        (found,) = (
            process
            for process in psutil.process_iter()
            if self._belongs(process, "flower-supernode", f"partition-id={number}")
        )
        return found

    def stop_node(self, number: int) -> list[str]:
        """Stop a SuperNode, which takes its leave; returns its command."""
        process = self.node(number)
        command = process.cmdline()
        stop(process)
        return command

    def kill_node(self, number: int) -> list[str]:
        """Kill a SuperNode with all that it has started; returns its command."""
        process = self.node(number)
        command = process.cmdline()
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs([process], timeout=STOP_SECONDS)
        return command

    def start_node(self, number: int, command: list[str]) -> None:
        """Start a SuperNode again and again, as a supervisor would, until the SuperLink lets it in."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            self._log(number).write_text("")
            with self._log(number).open("a") as log:
                process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
            while process.poll() is None:
                if CONNECTED in self._log(number).read_text():
                    return
                time.sleep(0.1)
        raise AssertionError(self._log(number).read_text())

    def wait_until_connected(self, number: int) -> None:
        """Wait until the SuperLink has let a SuperNode in."""
        deadline = time.monotonic() + SECONDS
        while CONNECTED not in (text := self._log(number).read_text()):
            assert time.monotonic() < deadline, text
            time.sleep(0.1)

    @property
    def run_folders(self) -> list[RunFolder]:
        """All runs that have started, in order."""
        return [RunFolder(path) for path in sorted((self.folder / "results").glob("*"))]

    def wait_until_training(self, number: int, after_round: int, running: subprocess.Popen) -> None:
        """Wait until so many rounds of the run that was started last are over, and a SuperNode works in the next."""
        num_runs = len(self.run_folders)
        while running.poll() is None:
            runs = self.run_folders
            if len(runs) > num_runs and len(runs[-1].rounds) == after_round and self._is_working(number):
                return
            time.sleep(0.05)
        raise AssertionError(running.communicate()[0])

    def _is_working(self, number: int) -> bool:
        """Whether a SuperNode has a ClientApp process."""
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            children = self.node(number).children(recursive=True)
            return any("flwr-clientapp" in " ".join(child.cmdline()) for child in children)
        return False

    def _belongs(self, process: psutil.Process, *words: str) -> bool:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            command = " ".join(process.cmdline())
            return all(word in command for word in words) and process.cwd() == str(self.folder)
        return False

    def _log(self, number: int) -> Path:
        return self.folder / "trial" / f"supernode-{number}.log"


@contextmanager
def deployment(folder: Path, secure: bool) -> Iterator[Deployment]:
    """The federation in a folder, whose processes are stopped at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield Deployment(folder, secure)
    finally:
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if "flower-super" in " ".join(process.cmdline()) and process.cwd() == os.path.realpath(folder):
                    stop(process)
