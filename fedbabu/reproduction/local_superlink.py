"""A local Flower SuperLink apart from the user's, for as long as a sweep needs it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from urllib.request import urlopen

import psutil
from filelock import FileLock, Timeout

from fedbabu.errors import ConfigError, RunError

START_SECONDS = 120  # that the SuperLink may need until it answers
HOME_PREFIX = "fedbabu-flwr-"
STOP_SECONDS = 10  # that a process may need to stop


@contextmanager
def local_superlink(folder: Path) -> Iterator[tuple[dict[str, str], psutil.Process]]:
    """Start a SuperLink for simulations, and stop it in the end with all processes that it has started.

    It uses the Python environment of this process, so that Flower does not install another one for each run, and a free
    port, so that it does not meet a SuperLink that the user has started. Its log and a lock are written to `folder`. A
    SuperLink that a killed process has left there is stopped first.

    Yields:
        The environment variables with which `flwr` finds the SuperLink, and its process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / "lock").acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"Another process has a SuperLink in {folder}: wait for it, or stop it.") from error
    # The home is not in the project, because Flower copies the app there, and would pack that copy the next time.
    with lock, tempfile.TemporaryDirectory(prefix=HOME_PREFIX, ignore_cleanup_errors=True) as home:
        note, log = folder / "superlink.json", folder / "superlink.log"
        with suppress(OSError, ValueError, TypeError):
            pid, created, old_home = json.loads(note.read_text())
            with suppress(psutil.NoSuchProcess):
                if (left_over := psutil.Process(pid)).create_time() == created:  # otherwise another process has its id
                    stop(left_over)
            if Path(old_home).name.startswith(HOME_PREFIX):
                shutil.rmtree(old_home, ignore_errors=True)
        port = free_port()
        environment = flower_environment(home, port)
        command = [
            "flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess",
            "--host", "127.0.0.1", "--port", str(port),
        ]  # fmt: skip
        process = start(command, environment, log)
        try:
            note.write_text(json.dumps([process.pid, process.create_time(), home]))
            started = monotonic()
            while not _answers(port):
                if process.poll() is not None or monotonic() - started > START_SECONDS:
                    raise RunError(f"Flower's SuperLink did not start: {log} says why.")
                sleep(0.1)
            yield environment, process
        finally:
            stop(process)
            note.unlink(missing_ok=True)


def flower_environment(home: str, port: int) -> dict[str, str]:
    """The environment variables with which `flwr` uses this Python environment, a home folder and a port."""
    return os.environ | {
        "FLWR_HOME": home,
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def start(command: list[str], environment: Mapping[str, str], log: Path) -> psutil.Popen:
    """Start a process that writes to a log, in a new session, so that Ctrl-C reaches only this process."""
    with log.open("w") as output:
        return psutil.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )


def stop(process: psutil.Process) -> None:
    """Ask a process to stop, and kill it if it does not, with all processes that it has started."""
    with suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        process.terminate()
        psutil.wait_procs([process], timeout=STOP_SECONDS)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=STOP_SECONDS)


def _answers(port: int) -> bool:
    with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
        return True
    return False


def free_port() -> int:
    """A TCP port on which no process listens at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
