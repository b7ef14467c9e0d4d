"""Native norms, rotations and gates are those of the NumPy references."""

from __future__ import annotations

import numpy as np
import pytest

from halfpint.engine import activation, rotation
from halfpint.kernels import elementwise

SIZES = [(1, 1), (3, 7), (2, 64), (5, 100), (300, 250)]


def random(*shape: int) -> np.ndarray:
    return 3 * np.random.default_rng(0).standard_normal(shape, np.float32)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_norms_are_those_of_the_reference(size, isa):
    x, weight = random(*size), random(size[1])
    truth = activation.rms_norm(x, weight, 1e-5)
    assert np.allclose(elementwise.rms_norm(x, weight, 1e-5), truth, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", activation.ACTIVATIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gates_are_those_of_the_reference(name, size, isa):
    both = random(size[0], 2 * size[1])
    gates, ups = np.split(both, 2, axis=-1)
    truth = activation.ACTIVATIONS[name](gates) * ups
    assert np.allclose(elementwise.gated(name, gates, ups), truth, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("name", activation.ACTIVATIONS)
def test_gates_of_any_size_stay_finite(name, isa):
    gates = np.array([[-3e38, -1e20, -100, -88, -0.0, 0.0, 88, 1e20, 3e38]], np.float32)
    truth = activation.ACTIVATIONS[name](gates)
    assert np.allclose(elementwise.gated(name, gates, np.ones_like(gates)), truth, rtol=1e-6, atol=1e-30)
    assert np.isnan(elementwise.gated(name, np.full((1, 3), np.nan, np.float32), gates[:, :3])).all()


@pytest.mark.parametrize(("heads", "head_dim", "half"), [(1, 2, 1), (4, 64, 32), (3, 80, 20), (2, 96, 48), (2, 24, 7)])
def test_rotations_are_those_of_the_reference(heads, head_dim, half, isa):
    x, angles = random(5, heads * head_dim), random(5, half)
    cosines, sines = np.cos(angles), np.sin(angles)
    truth = rotation.rotate(x.reshape(1, 5, heads, head_dim), cosines, sines).reshape(x.shape)
    rotated = x.copy()
    elementwise.rotate(rotated, head_dim, cosines, sines)
    assert np.allclose(rotated, truth, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sums_are_exact(size, isa):
    x, more = random(*size), random(*size)[::-1].copy()
    total = x.copy()
    elementwise.add(total, more)
    assert np.array_equal(total, x + more)


def test_any_number_of_threads_gives_the_same_bits(threads):
    outputs = []
    for count in (1, 2, 3):
        threads(count)
        outputs.append(elementwise.gated("silu", random(400, 300), random(400, 300)[::-1]))
    assert np.array_equal(outputs[0], outputs[1])
    assert np.array_equal(outputs[0], outputs[2])


def test_what_cannot_be_written_in_place_is_refused():
    x = random(4, 8)
    for other in (x[:, ::2], x.astype(np.float64)[:, :4]):
        with pytest.raises(TypeError):
            elementwise.add(other, random(4, 4))
