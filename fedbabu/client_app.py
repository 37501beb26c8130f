"""The ClientApp: hands each message to its handler in `client_work`.

In a simulation, Flower imports this module before it starts Ray. So it imports little, and sets what Ray reads when it
starts; a worker imports the handlers, and with them PyTorch, which takes seconds.
"""

import os

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

# Ray hides the GPUs from workers that ask for none, and warns that it will stop doing so.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """See `client_work.describe`."""
    from fedbabu import client_work

    return client_work.describe(message, context)


@app.train()
def train_clients(message: Message, context: Context) -> Message:
    """See `client_work.train_clients`."""
    from fedbabu import client_work

    return client_work.train_clients(message, context)


@app.evaluate()
def evaluate_clients(message: Message, context: Context) -> Message:
    """See `client_work.evaluate_clients`."""
    from fedbabu import client_work

    return client_work.evaluate_clients(message, context)
