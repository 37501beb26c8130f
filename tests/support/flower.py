"""The `flwr` command of the environment that runs the tests."""

import subprocess
import sys
from pathlib import Path

from support import PROJECT

BIN = Path(sys.executable).parent


def flwr(environment: dict, *arguments: str) -> str:
    """Run a flwr command in the project's folder and return all that it prints."""
    result = subprocess.run(
        [BIN / "flwr", *arguments], env=environment, cwd=PROJECT, text=True, capture_output=True, timeout=900
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr
