"""The app's ClientApp without its training: what is left of a round is what the federation costs.

It notes when a client was first told to train, in the file that FEDBABU_FIRST_STEP names.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedbabu import client_app

app = ClientApp()


def train(*args: Any, epochs: int, **kwargs: Any) -> Iterator[float]:
    """In the place of training.train: nothing is trained."""
    note = Path(os.environ["FEDBABU_FIRST_STEP"])
    if not note.exists():
        note.write_text(str(time.time()))
    yield from [0.0] * epochs


client_app.train = train


# Functions of this module, so that a worker imports it.


@app.query()
def describe(message: Message, context: Context) -> Message:
    """The app's own."""
    return client_app.describe(message, context)


@app.train()
def train_clients(message: Message, context: Context) -> Message:
    """The app's own."""
    return client_app.train_clients(message, context)


@app.evaluate()
def evaluate_clients(message: Message, context: Context) -> Message:
    """The app's own."""
    return client_app.evaluate_clients(message, context)
