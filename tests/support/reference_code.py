"""The algorithms as the authors' code trains and measures them, in plain PyTorch, written from a description of it.

The differences from the paper's text are those that docs/reproduction.md lists. Like `reference`, it uses nothing of
the package.
"""

from dataclasses import replace

import numpy as np
import torch

from support import reference
from support.reference import FINE_TUNING, SAMPLING, TRAINING, Client, body, everything, gradient, head

BETA = 0.1


def accuracy(theta, pixels, test):
    x, y = test
    return reference.score(theta, pixels.plain(x), y)[0]


def momentum_step(theta, velocity, gradients, rates, momentum):
    for name, g in gradients.items():
        velocity[name] = momentum * velocity[name] + g
        theta[name] = theta[name] - rates.get(name, 0.0) * velocity[name]


def sampled_clients(clients, k, seed, fraction=0.25):
    chosen = np.random.default_rng([seed, SAMPLING, k]).choice(sorted(clients), int(fraction * len(clients)), False)
    return sorted(chosen.tolist())


def mean(states):
    return {name: (sum(s[name].double() for s in states) / len(states)).to(states[0][name].dtype) for name in states[0]}


def head_then_body(theta, client, rate, epochs):
    """FedRep's phases with one optimizer: the body gathers momentum while only the head moves."""
    theta, velocity = dict(theta), {name: 0.0 for name in theta}
    for names, number in ((head(theta), epochs), (body(theta), 1)):
        for _ in range(number):
            for batch in client.epoch():
                gradients = gradient(reference.cross_entropy, theta, list(theta), *batch)
                momentum_step(theta, velocity, gradients, dict.fromkeys(names, rate), 0.5)
    return theta


def fedrep(theta, clients, settings, rounds, seed):
    """Returns the global models, and for every round the accuracies of all clients before and after fine-tuning."""
    pixels, states, history, measured = settings.pixels, {}, [], []
    for k in range(1, rounds + 1):
        rate, trained = reference.decayed(settings.rate, k, rounds), []
        for i in sampled_clients(clients, k, seed):
            client = Client(*clients[i][0], settings, seed, TRAINING, k, i)
            trained.append(head_then_body(theta | states.get(i, {}), client, rate, settings.epochs))
            states[i] = head(trained[-1])
        theta = theta | mean([body(t) for t in trained])
        history.append(theta)
        rate, after = reference.decayed(settings.rate, k + 1, rounds), {}
        for i, (train, test) in clients.items():
            start = theta | states.get(i, {})
            client = Client(*train, settings, seed, FINE_TUNING, k, i)
            tuned = head_then_body(start, client, rate, settings.epochs)
            after[i] = accuracy(start, pixels, test), accuracy(tuned, pixels, test)
        measured.append(after)
    return history, measured


def ditto(theta, clients, settings, rounds, seed):
    """Returns the global models, and for every round the accuracy of all clients."""
    history, measured = [], []
    for k in range(1, rounds + 1):
        trained = {}
        for i in sampled_clients(clients, k, seed):
            client, local, velocity = Client(*clients[i][0], settings, seed, TRAINING, k, i), dict(theta), {}
            velocity = {name: 0.0 for name in theta}
            for _ in range(settings.epochs):
                for batch in client.epoch():
                    before = dict(local)
                    gradients = gradient(reference.cross_entropy, local, list(local), *batch)
                    momentum_step(local, velocity, gradients, dict.fromkeys(local, settings.rate), settings.momentum)
                    for name in local:
                        local[name] = local[name] - settings.rate * settings.lam * (before[name] - theta[name])
            trained[i] = local
        measured.append({i: accuracy(trained.get(i, theta), settings.pixels, test) for i, (_, test) in clients.items()})
        theta = mean(list(trained.values()))
        history.append(theta)
    return history, measured


def per_fedavg(theta, clients, settings, rounds, seed):
    """Returns the global models, and for every round the accuracies of all clients before and after they adapt."""
    history, measured = [], []
    for k in range(1, rounds + 1):
        rate, trained = reference.decayed(settings.rate, k, rounds), []
        sampled = sampled_clients(clients, k, seed)
        for i in sampled:
            x, y = clients[i][0]
            generator, local = reference.stream(seed, TRAINING, k, i), dict(theta)
            velocity = {name: 0.0 for name in theta}
            for _ in range(settings.epochs):
                order = list(torch.randperm(len(y), generator=generator).split(settings.batch_size))
                number = len(order) // settings.epochs + 1
                while len(order) < 2 * number:
                    order += torch.randperm(len(y), generator=generator).split(settings.batch_size)
                batches = [(settings.pixels.augmented(x[r], generator), y[r]) for r in order[: 2 * number]]
                for support, query in zip(batches[::2], batches[1::2], strict=True):
                    before = dict(local)
                    g = gradient(reference.cross_entropy, local, list(local), *support)
                    momentum_step(local, velocity, g, dict.fromkeys(local, rate), settings.momentum)
                    g = gradient(reference.cross_entropy, local, list(local), *query)
                    local = before
                    momentum_step(local, velocity, g, dict.fromkeys(local, BETA), settings.momentum)
            trained.append(local)
        theta = mean(trained)
        history.append(theta)
        rate, after, (x, y) = reference.decayed(settings.rate, k + 1, rounds), {}, clients[sampled[-1]][1]
        for i, (_, test) in clients.items():
            order = list(torch.randperm(len(y), generator=reference.stream(seed, FINE_TUNING, k, i)))
            chunks = list(torch.stack(order).split(settings.batch_size))
            chunks += chunks
            adapted, velocity = dict(theta), {name: 0.0 for name in theta}
            for rows, alpha in zip(chunks[:2], (rate, BETA), strict=True):
                batch = settings.pixels.plain(x[rows]), y[rows]
                g = gradient(reference.cross_entropy, adapted, list(adapted), *batch)
                momentum_step(adapted, velocity, g, dict.fromkeys(adapted, alpha), settings.momentum)
            after[i] = accuracy(theta, settings.pixels, test), accuracy(adapted, settings.pixels, test)
        measured.append(after)
    return history, measured


def fedper(theta, clients, settings, rounds, seed):
    """Returns the global models: every round starts from the first head."""
    history = []
    for k in range(1, rounds + 1):
        s = replace(settings, rate=reference.decayed(settings.rate, k, rounds))
        trained = [
            body(Client(*clients[i][0], s, seed, TRAINING, k, i).sgd(theta, everything))
            for i in sampled_clients(clients, k, seed)
        ]
        theta = theta | mean(trained)
        history.append(theta)
    return history


def lg_fedavg(theta, clients, settings, rounds, seed):
    """Returns the accuracy of every client with its best body and the mean of the best heads, in the best round."""
    pixels, states = settings.pixels, {}
    best = {i: (accuracy(theta, pixels, test), {}, head(theta)) for i, (_, test) in clients.items()}
    chosen = (-1.0, {})
    for k in range(1, rounds + 1):
        trained = []
        for i in sampled_clients(clients, k, seed):
            client = Client(*clients[i][0], settings, seed, TRAINING, k, i)
            trained.append(client.sgd(theta | states.get(i, {}), everything))
            states[i] = body(trained[-1])
        theta = theta | mean([head(t) for t in trained])
        for i, (_, test) in clients.items():
            now = accuracy(theta | states.get(i, {}), pixels, test)
            if now >= best[i][0]:
                best[i] = now, states.get(i, {}), head(theta)
        heads = mean([of_best for _, _, of_best in best.values()])
        combined = {i: accuracy(theta | best[i][1] | heads, pixels, test) for i, (_, test) in clients.items()}
        if np.mean(list(combined.values())) > chosen[0]:
            chosen = np.mean(list(combined.values())), combined
    return chosen[1]


def local_only(theta, clients, settings, seed, epochs):
    """Returns the accuracy of every client in its best epoch."""
    best = {}
    for i, (train, test) in clients.items():
        local, velocity = dict(theta), {name: 0.0 for name in theta}
        for k in range(1, epochs + 1):
            rate = reference.decayed(settings.rate, k, epochs)
            for batch in Client(*train, settings, seed, TRAINING, k, i).epoch():
                g = gradient(reference.cross_entropy, local, list(local), *batch)
                momentum_step(local, velocity, g, dict.fromkeys(local, rate), settings.momentum)
            best[i] = max(best.get(i, -1.0), accuracy(local, settings.pixels, test))
    return best
