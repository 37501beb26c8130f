"""A local SuperLink of one's own, for as long as it is needed."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from urllib.request import urlopen

import psutil
from filelock import FileLock, Timeout

from fedbabu.errors import ConfigError, RunError

START_SECONDS = 120  # that it may take to answer
HOME_PREFIX = "fedbabu-flwr-"
STOP_SECONDS = 10  # that it may take to stop by itself


@contextmanager
def local_superlink(folder: Path) -> Iterator[tuple[dict[str, str], psutil.Process]]:
    """Start a SuperLink for simulations, and stop it in the end with all that it has started.

    It uses the Python environment of this process, so Flower installs none for a run, and free ports, so it is apart
    from the user's own.

    Args:
        folder: for its log and a lock; one SuperLink at a time. One that a killed process has left there is stopped.

    Yields:
        The environment variables with which `flwr` uses it, and its process.

    Raises:
        ConfigError: if another process has a SuperLink in this folder.
        RunError: if it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / "lock").acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"Another process has a SuperLink in {folder}: wait for it, or stop it.") from error
    # Flower keeps the app there, too: in a folder within the project, it would pack that into the app the next time.
    with lock, tempfile.TemporaryDirectory(prefix=HOME_PREFIX, ignore_cleanup_errors=True) as home:
        note = folder / "superlink.json"
        _stop_left_over(note)
        control, http = free_ports(2)
        environment = flower_environment(home, control, http)
        command = [
            "flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess",
            "--control-api-address", f"127.0.0.1:{control}", "--host", "127.0.0.1", "--port", str(http),
        ]  # fmt: skip
        with (folder / "superlink.log").open("w") as log:
            # In a session of its own, so that Ctrl-C reaches this process alone, which then stops it.
            process = psutil.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            note.write_text(json.dumps([process.pid, process.create_time(), home]))
            _wait_until_it_answers(process, http, folder / "superlink.log")
            yield environment, process
        finally:
            stop(process)
            note.unlink(missing_ok=True)


def flower_environment(home: str, control: int, http: int) -> dict[str, str]:
    """The environment variables with which `flwr` uses this process's Python environment, a folder and two ports."""
    return os.environ | {
        "FLWR_HOME": home,
        "FLWR_LOCAL_CONTROL_API_PORT": str(control),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(http),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def stop(process: psutil.Process) -> None:
    """Stop a process and all that it has started: at first kindly."""
    with suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        process.terminate()
        psutil.wait_procs([process], timeout=STOP_SECONDS)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=STOP_SECONDS)


def _stop_left_over(note: Path) -> None:
    """Stop the SuperLink of a process that was killed, and remove its files."""
    with suppress(OSError, ValueError, TypeError):
        pid, created, home = json.loads(note.read_text())
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.create_time() == created:  # another process may have its number now
                stop(process)
        if Path(home).name.startswith(HOME_PREFIX):
            shutil.rmtree(home, ignore_errors=True)


def _wait_until_it_answers(process: psutil.Popen, port: int, log: Path) -> None:
    started = monotonic()
    while True:
        try:
            urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            return
        except OSError as error:
            if process.poll() is not None or monotonic() - started > START_SECONDS:
                raise RunError(f"Flower's SuperLink did not start; it says why in {log}.") from error
            sleep(0.1)


def free_ports(number: int) -> list[int]:
    """TCP ports that no process listens on at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
