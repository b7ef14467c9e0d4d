"""What the tests of calibration share: windows of text, a solver that writes down what it is told, names of weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

import tiny_models
from halfpint.calibration.text import Window
from halfpint.families import read_config

LENGTHS = (20, 33, 20, 20, 33, 17, 20)
"""Tokens of each window: batches of several and of one, in both halves."""


def some_windows(seed: int = 0) -> list[Window]:
    generator = np.random.default_rng(seed)
    return [
        Window("ab"[number % 2], tuple(generator.integers(3, tiny_models.VOCAB_SIZE, length).tolist()))
        for number, length in enumerate(LENGTHS)
    ]


@dataclass
class Solving:
    """A solver that writes down what it is told, and rounds by `noise`."""

    model: object
    noise: float = 0.0
    seen: dict = field(default_factory=dict)

    def __call__(self, name, statistics):
        assert name not in self.seen
        self.seen[name] = statistics
        weight = self.model.read(name)
        if not self.noise:
            return weight
        generator = np.random.default_rng(len(name) + int(np.abs(weight).sum()))
        return weight + self.noise * weight.std() * generator.standard_normal(weight.shape, np.float32)


def matrices(model) -> list[str]:
    """Names of everything that is solved."""
    return [name for name, spec in model.tensors.items() if len(spec.shape) == 2]


def products_of(model) -> set[str]:
    """Names of what vectors are multiplied with: all but an untied embedding."""
    tied = read_config(model.config).tied_embeddings
    return {name for name in matrices(model) if tied or "embed_tokens" not in name}


def assert_same(first, second):
    assert list(first) == list(second)
    for name, statistics in first.items():
        for one, other in zip(statistics.halves, second[name].halves, strict=True):
            assert one.tokens == other.tokens
            assert np.array_equal(one.second, other.second)
            assert np.array_equal(one.shift, other.shift)
            assert np.array_equal(one.difference, other.difference)
