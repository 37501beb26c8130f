"""The bare loop that the app is measured against: one process, one thread, tensors in memory, PyTorch's own optimizer.

It is a round of FedBABU on 4convNet without a federation. The images are normalized beforehand and not augmented, and
nothing is checked, sent, averaged or recorded. Each time that `python bare_loop.py <file>` reads a line, it trains the
clients in the file one after the other, and answers with a line. `python bare_loop.py <file> keep` does the same but
keeps freed memory from step to step, as the app does.
"""

import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

BATCH_SIZE, EPOCHS = 50, 4


def network() -> nn.Sequential:
    """4convNet with pooling before ReLU, as the app has it: the same function, at less cost."""
    layers: list[nn.Module] = []
    for channels in (3, 64, 64, 64):
        layers += [
            nn.Conv2d(channels, 64, 3, padding=1),
            nn.BatchNorm2d(64, track_running_stats=False),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10)).to(memory_format=torch.channels_last)


def train_client(model: nn.Sequential, images: Tensor, labels: Tensor) -> None:
    """Train the body: images float32 [n, 3, 32, 32], channels last, and labels int64 [n]."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels)).split(BATCH_SIZE):
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()


def main(file: str) -> None:
    """Answer every line with a line, when all clients of the file have trained."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = load_file(file)
    clients = [
        (images.to(memory_format=torch.channels_last), labels)
        for images, labels in zip(data["images"], data["labels"], strict=True)
    ]
    model = network()
    model[-1].requires_grad_(False)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    print("ready", flush=True)
    for _ in sys.stdin:
        for images, labels in clients:
            model.load_state_dict(start)
            train_client(model, images, labels)
        print("done", flush=True)


if __name__ == "__main__":
    if sys.argv[2:]:
        from fedbabu.training.device import keep_freed_memory

        keep_freed_memory()
    main(sys.argv[1])
