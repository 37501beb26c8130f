"""Loops that train as three other code bases do, to measure the app beside: `python peers.py <file> <name>`.

Each is a minimal loop, written after the code base that its docstring names, and is not that code. It does what costs
that code base time: how it stores and transforms images, loads batches, copies networks and averages them. All train
the same: 4convNet on ten clients of 500 CIFAR-10 images, for 4 epochs, in batches of 50, cropped, flipped and
normalized, by SGD that leaves the head as it is. Sampling and partitioning of clients, evaluation, logs and messages
are left out, and PyTorch is the version of this environment.

A loop is a generator: it prepares what a run needs, and trains one round each time that it is resumed, in one process
with all of PyTorch's threads. The file has the images of all clients as "pixels", uint8 [clients, n, 32, 32, 3], and
their labels as "labels", int64 [clients, n].
"""

import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from io import BytesIO
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms

NUM_CLIENTS = 100  # in the federation, of which those in the file train
BATCH_SIZE, EPOCHS, LEARNING_RATE, MOMENTUM = 50, 4, 0.1, 0.9
AUGMENT = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
NORMALIZE = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FOR_PILLOW = transforms.Compose([*AUGMENT, transforms.ToTensor(), NORMALIZE])


class FourConvNet(nn.Module):
    """4convNet in the layer order and the memory layout that the code bases have: ReLU, and only then pooling."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (3, 64, 64, 64):
            convolution = nn.Conv2d(channels, 64, 3, padding=1)
            layers += [convolution, nn.BatchNorm2d(64, track_running_stats=False), nn.ReLU(), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(256, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, 10] of images [n, 3, 32, 32]."""
        return self.head(self.body(images))


def sgd_with_still_head(network: FourConvNet) -> SGD:
    """SGD for which the head is one of two groups, with a learning rate of zero: its gradients are still computed."""
    groups = [{"params": network.body.parameters()}, {"params": network.head.parameters(), "lr": 0.0}]
    return SGD(groups, lr=LEARNING_RATE, momentum=MOMENTUM)


class AuthorsImages(Dataset):
    """An array of images that makes a Pillow image of each, as torchvision's CIFAR10 does, and transforms it."""

    def __init__(self, pixels: np.ndarray, labels: list[int]) -> None:
        self.pixels, self.labels = pixels, labels

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return FOR_PILLOW(Image.fromarray(self.pixels[row])), self.labels[row]


def authors(pixels: Tensor, labels: Tensor) -> Iterator[None]:
    """A minimal loop written after the authors' code, github.com/jhoon-oh/FedBABU at e34c15b, not their code.

    Kept: transforms of each Pillow image in the loading process; a new DataLoader for each client; a network for every
    client of the federation, of which a copy trains; the head's learning rate of zero; reading the loss in every step;
    a sum of whole networks, divided at last, of which the body goes to every client. Left out: the test of all clients
    after each round.
    """
    dataset = AuthorsImages(pixels.flatten(0, 1).numpy(), labels.flatten().tolist())
    rows = np.arange(len(dataset.labels)).reshape(labels.shape)
    initial = FourConvNet()
    networks = [deepcopy(initial) for _ in range(NUM_CLIENTS)]
    criterion = nn.CrossEntropyLoss()
    while True:
        yield
        total: dict[str, Tensor] = {}
        for client in range(len(labels)):
            batches = DataLoader(Subset(dataset, list(rows[client])), BATCH_SIZE, shuffle=True)
            network = deepcopy(networks[client]).train()
            optimizer = sgd_with_still_head(network)
            losses = []
            for _ in range(EPOCHS):
                for images, targets in batches:
                    network.zero_grad()
                    loss = criterion(network(images), targets)
                    loss.backward()
                    optimizer.step()
                    losses.append(loss.item())
            trained = network.state_dict()
            if total:
                for name in total:
                    total[name] += trained[name]
            else:
                total = deepcopy(trained)
        body = {name: value / len(labels) for name, value in total.items() if name.startswith("body")}
        for network in networks:
            network.load_state_dict(body, strict=False)


class FLBenchImages(Dataset):
    """Float images in [0, 1], and labels, all in two tensors, with a transform of each image's tensor."""

    def __init__(self, pixels: Tensor, labels: Tensor, transform: transforms.Compose) -> None:
        self.images = pixels.float().permute(0, 3, 1, 2).div_(255)  # collating a batch makes it contiguous
        self.labels, self.transform = labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[row]), self.labels[row]


def fl_bench(pixels: Tensor, labels: Tensor, augment: bool = True) -> Iterator[None]:
    """A minimal loop written after FL-bench, github.com/KarhouTam/FL-bench at 06e658b, not their code.

    It is the serial mode, which is the default. Kept: one network, optimizer and DataLoader for all clients, set anew
    for each by its state; transforms of each image's tensor; gradients of the head that are computed and then set to
    zero; copies of the global parameters for every client, and of its parameters and optimizer's state afterwards; the
    weighted mean of stacked parameters, the head's too. Left out: the evaluation of a client before and after training,
    which is on by default. Added, unless augment is false: crops and flips, as FL-bench only normalizes.
    """
    transform = transforms.Compose([*AUGMENT, NORMALIZE] if augment else [NORMALIZE])
    client_rows = np.arange(labels.numel()).reshape(labels.shape).tolist()
    dataset = Subset(FLBenchImages(pixels.flatten(0, 1), labels.flatten(), transform), client_rows[0])
    batches = DataLoader(dataset, BATCH_SIZE, shuffle=True)
    network = FourConvNet()
    shared = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimizer = SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    initial_optimizer = deepcopy(optimizer.state_dict())
    criterion = nn.CrossEntropyLoss()
    while True:
        yield
        replies: list[dict[str, Tensor]] = []
        optimizers: list[dict[str, Any]] = []
        for rows in client_rows:
            dataset.indices = rows
            optimizer.load_state_dict(initial_optimizer)
            network.load_state_dict(deepcopy(shared), strict=False)
            network.train()
            for _ in range(EPOCHS):
                for images, targets in batches:
                    loss = criterion(network(images), targets)
                    optimizer.zero_grad()
                    loss.backward()
                    for parameter in network.head.parameters():
                        parameter.grad.zero_()
                    optimizer.step()
            state = network.state_dict()
            replies.append({name: state[name].clone() for name in shared})
            optimizers.append(deepcopy(optimizer.state_dict()))
        sizes = torch.tensor([len(rows) for rows in client_rows])
        weights = sizes / sizes.sum()
        for name in shared:
            shared[name] = (torch.stack([reply[name] for reply in replies], dim=-1) * weights).sum(dim=-1)


def png(pixels: np.ndarray) -> dict[str, Any]:
    """An image, uint8 [32, 32, 3], as a dataset of the Hub stores it."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def transform_rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Transform the decoded images of some rows one by one."""
    return batch | {"img": [FOR_PILLOW(image) for image in batch["img"]]}


def flower_baseline(pixels: Tensor, labels: Tensor) -> Iterator[None]:
    """A minimal loop written after Flower's FedBABU baseline, github.com/adap/flower at 83e01ef6, not their code.

    That is the head of pull request 4322, which main does not have. Kept: images that are stored as PNG in an Arrow
    table, and decoded and transformed one by one at every reading; a new network, partition and DataLoader for each
    client; the head's learning rate of zero; reading the loss in every step; parameters as lists of NumPy arrays,
    averaged in place, the head's too. Left out: Flower and Ray, which give a client two CPUs, and so train several at
    once where there are more; the split into training and test images. Changed: the network has the paper's four
    convolutions, where theirs has three.
    """
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    columns = {"img": [png(each) for each in pixels.flatten(0, 1).numpy()], "label": labels.flatten().tolist()}
    dataset = datasets.Dataset.from_dict(columns, features=features)
    # A partition and its training images are rows in no order, which Arrow gathers.
    client_rows = [client * labels.shape[1] + torch.randperm(labels.shape[1]).numpy() for client in range(len(labels))]
    shared = [value.numpy() for value in FourConvNet().state_dict().values()]
    criterion = nn.CrossEntropyLoss()
    while True:
        yield
        replies: list[tuple[list[np.ndarray], int]] = []
        for rows in client_rows:
            network = FourConvNet()
            partition = dataset.select(rows).with_transform(transform_rows)
            batches = DataLoader(partition, BATCH_SIZE, shuffle=True)
            network.load_state_dict(dict(zip(network.state_dict(), map(torch.tensor, shared), strict=True)))
            optimizer = sgd_with_still_head(network.train())
            total = 0.0
            for _ in range(EPOCHS):
                for batch in batches:
                    optimizer.zero_grad()
                    loss = criterion(network(batch["img"]), batch["label"])
                    loss.backward()
                    optimizer.step()
                    total += loss.item()
            replies.append(([value.numpy() for value in network.state_dict().values()], len(partition)))
        num_examples = sum(size for _, size in replies)
        for arrays, size in replies:
            for array in arrays:
                array *= size / num_examples
        shared, *others = [arrays for arrays, _ in replies]
        for arrays in others:
            for mean, array in zip(shared, arrays, strict=True):
                mean += array


PEERS = {
    "authors": authors,
    "fl-bench": fl_bench,
    "fl-bench-plain": partial(fl_bench, augment=False),  # as it ships
    "flower-baseline": flower_baseline,
}


def main(file: str, name: str) -> None:
    """Answer every line with a line, when all clients of the file have trained and were averaged."""
    torch.manual_seed(0)
    data = load_file(file)
    rounds = PEERS[name](data["pixels"], data["labels"])
    next(rounds)
    print("ready", flush=True)
    for _ in sys.stdin:
        next(rounds)
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
