"""Weights and inputs that solvers are tested on."""

import numpy as np

from halfpint.solvers.statistics import Moments, Statistics


def inputs(columns=256, tokens=2000, seed=0):
    """Inputs whose columns are far from independent and of different sizes, float32 [tokens, columns].

    The seed chooses the tokens: they come from the same distribution whatever it is.
    """
    layer = np.random.default_rng(100)
    mixing = np.eye(columns) + 0.15 * layer.standard_normal((columns, columns))
    sizes = np.exp(layer.standard_normal(columns) * 0.5)
    generator = np.random.default_rng(seed)
    return (generator.standard_normal((tokens, columns)) @ mixing * sizes).astype(np.float32)


def weight(rows=64, columns=256, seed=1):
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 0.02).astype(np.float32)


def statistics(x, shift_of=None):
    """Moments of two halves of inputs; `shift_of` gives y - W x of some of them, [n, columns] -> [n, rows]."""
    halves = []
    for part in (x[::2], x[1::2]):
        shift = None if shift_of is None else shift_of(part).T @ part
        halves.append(Moments(part.T @ part, shift, len(part)))
    return Statistics((halves[0], halves[1]))
