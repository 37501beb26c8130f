"""FedBABU and FedAvg in plain PyTorch, from the paper's text: Algorithm 1, Section 3, Appendix A.

Nothing of the package's training, evaluation, aggregation or strategy is used: parameters are a dict of tensors,
the network is a function, SGD is two lines, images are cropped one by one. Only the data and the initial parameters
come from outside.
"""

import numpy as np
import torch
import torch.nn.functional as F

SAMPLING, TRAINING, FINE_TUNING = 1, 2, 3  # streams of random numbers: (seed, stream, round, client)


def stream(*entropy):
    return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))


class Pixels:
    """How images become numbers: scaled, normalized per channel and, for training, cropped and mirrored."""

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


def sgd(theta, x, y, pixels, trained, epochs, batch_size, learning_rate, momentum, generator):
    theta = {name: value.clone() for name, value in theta.items()}
    velocity = {name: torch.zeros_like(theta[name]) for name in trained}
    for _ in range(epochs):
        order = torch.randperm(len(y), generator=generator)
        for start in range(0, len(y), batch_size):
            batch = order[start : start + batch_size]
            for name in trained:
                theta[name].requires_grad_(True)
            loss = F.cross_entropy(network(theta, pixels.augmented(x[batch], generator)), y[batch])
            gradients = torch.autograd.grad(loss, [theta[name] for name in trained])
            for name, gradient in zip(trained, gradients, strict=True):
                velocity[name] = momentum * velocity[name] + gradient
                theta[name] = theta[name].detach() - learning_rate * velocity[name]
    return theta


def federated(theta, clients, pixels, trained, *, rounds, fraction, epochs, batch_size, rate, momentum, seed):
    """clients: {id: (x, y)}. Returns the global parameters after each round and the last learning rate."""
    history = []
    for k in range(1, rounds + 1):
        learning_rate = rate * (0.1 if (k - 1) >= rounds / 2 else 1) * (0.1 if (k - 1) >= rounds * 3 / 4 else 1)
        m = max(int(fraction * len(clients)), 1)
        sampled = np.random.default_rng([seed, SAMPLING, k]).choice(sorted(clients), m, replace=False)
        mean, n = {name: 0.0 for name in trained}, sum(len(clients[i][1]) for i in sampled)
        for i in sampled:
            generator = stream(seed, TRAINING, k, i)
            local = sgd(theta, *clients[i], pixels, trained, epochs, batch_size, learning_rate, momentum, generator)
            for name in trained:
                mean[name] = mean[name] + local[name].double() * (len(clients[i][1]) / n)
        theta = theta | {name: value.to(theta[name].dtype) for name, value in mean.items()}
        history.append(theta)
    return history, learning_rate


def score(theta, x, y):
    """Accuracy in percent and mean cross-entropy."""
    logits = network(theta, x)
    return 100 * (logits.argmax(1) == y).double().mean().item(), F.cross_entropy(logits, y).item()


def accuracy_without_head(theta, train, test):
    (x, y), (x_test, y_test) = train, test
    classes = y.unique()
    z = features(theta, x)
    templates = torch.stack([z[y == c].mean(0) for c in classes])
    similarity = F.cosine_similarity(features(theta, x_test)[:, None], templates[None], dim=2)
    return 100 * (classes[similarity.argmax(1)] == y_test).double().mean().item()
