"""The paper's protocol and every algorithm in plain PyTorch, written from the text of the paper.

It follows Algorithms 1 and 2, Section 3 and Appendix A, and uses nothing of the package: parameters are a dict of
tensors, the network is a function, SGD is two lines, and images are cropped one by one. Only the data and the initial
parameters come from outside.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

# The purposes of streams of random numbers; a stream is (seed, purpose, round, client).
SAMPLING, TRAINING, FINE_TUNING, SERVER_TRAINING, TEMPLATES = 1, 2, 3, 5, 9


def stream(*entropy):
    """PyTorch's generator for a stream of random numbers."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))


class Pixels:
    """The transform of images: scaled, normalized per channel and, for training, cropped and mirrored."""

    def __init__(self, mean, std, padding, flip):
        self.mean, self.std = (torch.tensor(v)[None, :, None, None] for v in (mean, std))
        self.padding, self.flip = padding, flip

    def plain(self, x):
        return (x.to(self.mean.dtype) / 255 - self.mean) / self.std

    def augmented(self, x, generator):
        n, _, height, width = x.shape
        if self.padding:
            top, left = torch.randint(2 * self.padding + 1, (2, n), generator=generator).tolist()
            x = F.pad(x, [self.padding] * 4)
            x = torch.stack([x[i, :, top[i] : top[i] + height, left[i] : left[i] + width] for i in range(n)])
        if self.flip:
            mirrored = torch.randint(2, (n, 1, 1, 1), generator=generator).flatten().tolist()
            x = torch.stack([image.flip(2) if mirror else image for image, mirror in zip(x, mirrored, strict=True)])
        return self.plain(x)


def features(theta, x):
    for block in range(4):
        w, b, gamma, beta = (theta[f"body.{block}.{name}"] for name in ("0.weight", "0.bias", "1.weight", "1.bias"))
        x = F.batch_norm(F.conv2d(x, w, b, padding=1), None, None, gamma, beta, training=True)
        x = F.max_pool2d(F.relu(x), 2)
    return x.flatten(1)


def network(theta, x):
    return features(theta, x) @ theta["head.weight"].T + theta["head.bias"]


def body(theta):
    return {name: value for name, value in theta.items() if name.startswith("body.")}


def head(theta):
    return {name: value for name, value in theta.items() if name.startswith("head.")}


def cross_entropy(theta, x, y):
    return F.cross_entropy(network(theta, x), y)


def gradient(loss, theta, names, *batch):
    for name in names:
        theta[name].requires_grad_(True)
    gradients = torch.autograd.grad(loss(theta, *batch), [theta[name] for name in names])
    for name in names:
        theta[name] = theta[name].detach()
    return dict(zip(names, gradients, strict=True))


@dataclass
class Settings:
    """The settings of a client's local training."""

    pixels: Pixels
    epochs: int
    batch_size: int
    rate: float
    momentum: float
    head_factor: float = 1.0
    blocks: int = 4
    # The constants of Appendix A.3 and Table 7; those of backbone self-distillation are the project's.
    mu: float = 0.01
    lam: float = 0.75
    beta: float = 1.0
    weight: float = 1.0
    temperature: float = 2.0
    squared: bool = False


class Client:
    """A client in one round: its data, its settings, and its stream of random numbers."""

    def __init__(self, x, y, settings, *entropy):
        self.x, self.y, self.settings, self.entropy = x, y, settings, entropy
        self.generator = stream(*entropy)

    def from_the_start(self):
        """The same client at the start of the same round."""
        return Client(self.x, self.y, self.settings, *self.entropy)

    def epoch(self):
        order, size = torch.randperm(len(self.y), generator=self.generator), self.settings.batch_size
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield self.settings.pixels.augmented(self.x[rows], self.generator), self.y[rows]

    def sgd(self, theta, moves, epochs=None, loss=cross_entropy, pull=0.0, anchor=None):
        """SGD with momentum on the parameters that `moves` selects; pull · (θ - anchor) is added to the gradient."""
        s, theta = self.settings, {name: value.clone() for name, value in theta.items()}
        names = [n for n in moves(theta) if n.startswith("head.") or int(n.split(".")[1]) < s.blocks]
        velocity = {name: 0.0 for name in names}
        for _ in range(s.epochs if epochs is None else epochs):
            for batch in self.epoch():
                for name, g in gradient(loss, theta, names, *batch).items():
                    g = g + pull * (theta[name] - anchor[name]) if pull else g
                    velocity[name] = s.momentum * velocity[name] + g
                    rate = s.rate * (s.head_factor if name.startswith("head.") else 1)
                    theta[name] = theta[name] - rate * velocity[name]
        return theta

    def meta_sgd(self, theta):
        """First-order MAML: each step takes the gradient on a query batch after a step on a support batch."""
        s, velocity = self.settings, {name: 0.0 for name in theta}
        for _ in range(s.epochs):
            chunks = list(torch.randperm(len(self.y), generator=self.generator).split(s.batch_size))
            if len(chunks) % 2:
                chunks.append(chunks[0])
            augmented = [(s.pixels.augmented(self.x[rows], self.generator), self.y[rows]) for rows in chunks]
            for support, query in zip(augmented[::2], augmented[1::2], strict=True):
                inner = gradient(cross_entropy, dict(theta), list(theta), *support)
                rate = {n: s.rate * (s.head_factor if n.startswith("head.") else 1) for n in theta}
                adapted = {name: (theta[name] - rate[name] * inner[name]).detach() for name in theta}
                for name, g in gradient(cross_entropy, adapted, list(theta), *query).items():
                    velocity[name] = s.momentum * velocity[name] + g
                    theta = theta | {name: theta[name] - s.beta * rate[name] * velocity[name]}
        return theta


def everything(theta):
    return theta


def distillation(teacher, s):
    def loss(theta, x, y):
        z, target = features(theta, x), features(teacher, x).detach()
        log_p, q = F.log_softmax(z / s.temperature, 1), F.softmax(target / s.temperature, 1)
        divergence = (q * (q.log() - log_p)).sum(1).mean() * s.temperature**2
        if s.squared:
            divergence = ((z - target) ** 2).mean()
        return F.cross_entropy(z @ theta["head.weight"].T + theta["head.bias"], y) + s.weight * divergence

    return loss


# The local work of each algorithm: from the global parameters and the client state, to what the client sends to the
# server and its new client state.
LOCAL_WORK = {}


def local_work(function):
    LOCAL_WORK[function.__name__.replace("_", "-")] = function


@local_work
def fedavg(theta, state, client):
    return client.sgd(theta, everything), {}


@local_work
def fedbabu(theta, state, client):
    return body(client.sgd(theta, body)), {}


@local_work
def fedper(theta, state, client):
    trained = client.sgd(theta | state, everything)
    return body(trained), head(trained)


@local_work
def lg_fedavg(theta, state, client):
    trained = client.sgd(theta | state, everything)
    return head(trained), body(trained)


@local_work
def fedrep(theta, state, client):
    trained = client.sgd(client.sgd(theta | state, head), body, epochs=1)
    return body(trained), head(trained)


@local_work
def per_fedavg(theta, state, client):
    return client.meta_sgd(theta), {}


@local_work
def ditto(theta, state, client):
    personal = client.from_the_start().sgd(theta | state, everything, pull=client.settings.lam, anchor=theta)
    return client.sgd(theta, everything), personal


@local_work
def fedprox(theta, state, client):
    return client.sgd(theta, everything, pull=client.settings.mu, anchor=theta), {}


@local_work
def fedprox_babu(theta, state, client):
    return body(client.sgd(theta, body, pull=client.settings.mu, anchor=theta)), {}


@local_work
def fedbsd(theta, state, client):
    trained = client.sgd(theta | state, everything, loss=distillation(theta, client.settings))
    return body(trained), trained


def decayed(rate, k, rounds):
    """The learning rate of round k = 1, 2, …"""
    return rate * (0.1 if (k - 1) >= rounds / 2 else 1) * (0.1 if (k - 1) >= rounds * 3 / 4 else 1)


def federated(algorithm, theta, clients, settings, *, rounds, fraction, seed, server=None):
    """Algorithm 1 with the local work of an algorithm.

    Args:
        algorithm: A key of LOCAL_WORK.
        theta: The initial parameters.
        clients: Images and labels of each client by its id.
        settings: The settings of local training in the first round.
        rounds: Number of rounds.
        fraction: Fraction of the clients sampled in a round.
        seed: The seed of everything random.
        server: Images, labels and the function that selects the trained parameters, if the server trains for an epoch
            after each aggregation.

    Returns:
        The global parameters after each round, and the client states at the end by client id.
    """
    history, states = [], {}
    for k in range(1, rounds + 1):
        s = replace(settings, rate=decayed(settings.rate, k, rounds))
        sampled, total = [], {}
        if fraction:
            m = max(int(fraction * len(clients)), 1)
            sampled = np.random.default_rng([seed, SAMPLING, k]).choice(sorted(clients), m, replace=False)
        n = sum(len(clients[i][1]) for i in sampled)
        for i in sampled:
            client = Client(*clients[i], s, seed, TRAINING, k, i)
            sent, state = LOCAL_WORK[algorithm](theta, states.get(i, {}), client)
            if state:
                states[i] = state
            for name, value in sent.items():
                total[name] = total.get(name, 0.0) + value.double() * (len(clients[i][1]) / n)
        theta = theta | {name: value.to(theta[name].dtype) for name, value in total.items()}
        if server:
            x, y, moves = server
            theta = Client(x, y, s, seed, SERVER_TRAINING, k).sgd(theta, moves, epochs=1)
        history.append(theta)
    return history, states


def local_only(theta, clients, settings, *, rounds, seed):
    """Every client trains alone for all rounds; returns the parameters of each at the end."""
    states = {}
    for i, (x, y) in clients.items():
        states[i] = theta
        for k in range(1, rounds + 1):
            s = replace(settings, rate=decayed(settings.rate, k, rounds))
            states[i] = Client(x, y, s, seed, TRAINING, k, i).sgd(states[i], everything)
    return states


def fine_tuned(algorithm, theta, client, epochs):
    """Algorithm 2: the parameters after 0, 1, … epochs of fine-tuning."""
    if algorithm in ("ditto", "local-only"):
        return [theta]
    moves = head if algorithm == "fedrep" else everything
    results = [client.from_the_start().sgd(theta, moves, epochs=e) for e in range(epochs + 1)]
    if algorithm == "fedrep":  # the body after the head
        client = client.from_the_start()
        results.append(client.sgd(client.sgd(theta, head, epochs=epochs), body, epochs=1))
    return results


def score(theta, x, y):
    """Accuracy in percent and mean cross-entropy."""
    logits = network(theta, x)
    return 100 * (logits.argmax(1) == y).double().mean().item(), F.cross_entropy(logits, y).item()


def accuracies_without_head(theta, train, test, pixels, generator):
    """Accuracy without the head in percent, from templates of every kind.

    The paper's text compares by cosine similarity. The authors' code compares by Euclidean distance, and computes the
    templates from augmented images that come class by class, in batches of 128; ours are of the images as they are.
    """
    (x, y), (x_test, y_test), measured = train, test, {}
    z_test = features(theta, x_test)
    order = torch.tensor(sorted(range(len(y)), key=lambda row: int(y[row])))
    halves = [len(y) * i // -(-len(y) // 128) for i in range(-(-len(y) // 128) + 1)]
    for images, pictures in (("plain", pixels.plain(x)), ("augmented", pixels.augmented(x, generator))):
        for batches, rows in (
            ("mixed", [torch.arange(start, stop) for start, stop in pairwise(halves)]),
            ("class-by-class", [order[start : start + 128] for start in range(0, len(y), 128)]),
        ):
            z, labels = torch.cat([features(theta, pictures[r]) for r in rows]), y[torch.cat(rows)]
            classes = labels.unique()
            templates = torch.stack([z[labels == c].mean(0) for c in classes])
            similarity = F.cosine_similarity(z_test[:, None], templates[None], dim=2)
            distance = (z_test[:, None] - templates[None]).square().sum(2)
            for name, nearest in (("cosine", similarity.argmax(1)), ("euclidean", distance.argmin(1))):
                percent = 100 * (classes[nearest] == y_test).double().mean().item()
                measured[f"{name} {images} {batches}"] = percent
    return measured
