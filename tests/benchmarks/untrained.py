"""The app's ClientApp without its training: what remains of a round is the cost of the federation.

It writes the time at which a client was first asked to train into the file that FEDBABU_FIRST_STEP names.
"""

import os
import time
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

import fedbabu.training.client
from fedbabu import client_work

app = ClientApp()


def train(*args: Any, epochs: int, **kwargs: Any) -> list[float]:
    """Train nothing, in the place of `local_sgd.train`."""
    note = Path(os.environ["FEDBABU_FIRST_STEP"])
    if not note.exists():
        note.write_text(str(time.time()))
    return [0.0] * epochs


fedbabu.training.client.train = train


# Functions of this module, so that a worker imports it.


@app.query()
def describe(message: Message, context: Context) -> Message:
    """The app's own handler."""
    return client_work.describe(message, context)


@app.train()
def train_clients(message: Message, context: Context) -> Message:
    """The app's own handler."""
    return client_work.train_clients(message, context)


@app.evaluate()
def evaluate_clients(message: Message, context: Context) -> Message:
    """The app's own handler."""
    return client_work.evaluate_clients(message, context)
