"""An app with Flower's FedAvg that trains nothing and needs no PyTorch, to measure Flower and Ray alone.

It has as many parameters as 4convNet on CIFAR-10, and two nodes. It writes the time at which each round began into the
file that FEDBABU_FIRST_STEP names.
"""

import os
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

NUM_PARAMETERS = 115_658

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
    arrays = ArrayRecord({"parameters": Array(np.zeros(NUM_PARAMETERS, np.float32))})
    strategy.start(grid, arrays, num_rounds=int(context.run_config["num-server-rounds"]))


@client.train()
def train(message: Message, context: Context) -> Message:
    """Send the received parameters back."""
    if context.node_config["partition-id"] == 0:
        with Path(os.environ["FEDBABU_FIRST_STEP"]).open("a") as note:
            note.write(f"{time.time()}\n")
    content = RecordDict({"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)
