"""Native code writes into the array that it is given, or refuses it: never into a copy that nobody sees."""

from __future__ import annotations

import numpy as np
import pytest

from halfpint import formats, kernels
from halfpint.kernels import _native, coding, solving
from halfpint.kernels.integer_linear import Activations, IntegerLinear
from halfpint.kernels.key_values import KeyValues
from halfpint.kernels.linear import Linear
from solvers.layers import weight

F32, U8, I8, I16, U16 = (np.dtype(name) for name in ("float32", "uint8", "int8", "int16", "uint16"))
WEIGHT = weight(4, 256)
BLOCKS = kernels.encode(WEIGHT, formats.by_name("q4_0"))
X = np.ones((2, 256), np.float32)
IDS = np.array([1, 3])
LINEAR, INTEGER = Linear(WEIGHT)._packed.handle, IntegerLinear(BLOCKS)._packed
ACTIVATIONS = Activations(X).handle
TABLE = np.linspace(-1, 1, 16, dtype=np.float32)
LATTICE = solving.lattice(TABLE, np.ones(1, np.float32), np.ones(1, np.float32), "none", np.dtype(np.float16), (32, 32))
SEARCH = _native.GroupSearch(
    (1, 32), (0, -8, 7), (0, 2.0**-24, 65504), 1, np.ones((1, 2), np.float32), np.ones((0, 3), np.float32), 0
)
HELD = KeyValues("f16", 2, 64)
HELD.append(X[:, :128].copy(), X[:, :128].copy())
ROW, EACH, PAIR = (2, 4), (4, 8), (2, 256)

CALLS = {
    "rms_norm": (lambda out: _native.rms_norm(X, X[0], 1e-5, out), [(PAIR, F32)]),
    "rotate": (lambda x: _native.rotate(x, 64, X[:, :32].copy(), X[:, :32].copy()), [(PAIR, F32)]),
    "gate": (lambda out: _native.gate(0, X, X, out), [(PAIR, F32)]),
    "add": (lambda into: _native.add(into, X), [(PAIR, F32)]),
    "decode_blocks": (lambda out: _native.decode_blocks(2, BLOCKS.parts["blocks"], out), [((4, 256), F32)]),
    "encode_blocks": (
        lambda out: _native.encode_blocks(2, WEIGHT, False, None, coding._TARGETS["q4_0"], out),
        [(BLOCKS.parts["blocks"].shape, U8)],
    ),
    "encode_groups": (
        lambda codes, scales, zeros: _native.encode_groups(SEARCH, WEIGHT, False, None, 1, codes, scales, zeros),
        [((4, 256), U8), (EACH, U16), (EACH, U8)],
    ),
    "decode_codes": (
        lambda out: _native.decode_codes(
            np.zeros((4, 256), np.uint8), np.zeros(256, np.float32), np.ones(EACH, np.float32), None, (1, 32), out
        ),
        [((4, 256), F32)],
    ),
    "feed_back": (
        lambda indices, errors: _native.feed_back(
            LATTICE, WEIGHT, np.eye(256, dtype=np.float32), *2 * [np.ones(EACH, np.float32)], indices, errors
        ),
        [((4, 256), U8), ((4, 256), F32)],
    ),
    "refine": (
        lambda indices, scale, minimum, subscale, submin, change: _native.refine(
            LATTICE, WEIGHT, np.eye(256, dtype=np.float32), 1, indices, (scale, minimum), (subscale, submin), change
        ),
        [((4, 256), U8), (EACH, F32), (EACH, F32), (EACH, I16), (EACH, I16), ((4, 256), F32)],
    ),
    "Linear.forward": (lambda out: LINEAR.forward(X, out), [(ROW, F32)]),
    "Linear.decode": (lambda out: LINEAR.decode(0, out), [((4, 256), F32)]),
    "Linear.gather": (lambda out: LINEAR.gather(IDS, out), [(PAIR, F32)]),
    "Integer.decode": (INTEGER.decode, [((4, 256), F32)]),
    "Integer.gather": (lambda out: INTEGER.gather(IDS, out), [(PAIR, F32)]),
    "multiply_integers": (lambda out: _native.multiply_integers([INTEGER], ACTIVATIONS, [out]), [(ROW, F32)]),
    "multiply_many": (lambda out: _native.multiply_many([INTEGER], ACTIVATIONS, [out]), [(ROW, F32)]),
    "multiply_gated": (lambda out: _native.multiply_gated(INTEGER, INTEGER, 0, ACTIVATIONS, out), [(ROW, F32)]),
    "copy_rounded": (ACTIVATIONS.copy_rounded, [(PAIR, I8), ((2, 8), F32)]),
    "copy_tiles": (ACTIVATIONS.copy_tiles, [(PAIR, I8), ((2, 8), F32)]),
    "KeyValues.attend": (lambda out: HELD.handle.attend(X[:, :128].copy(), 1.0, 0, 0.0, out), [((2, 128), F32)]),
    "KeyValues.read": (lambda keys, values: HELD.handle.read(0, keys, values), [((2, 128), F32), ((2, 128), F32)]),
    "KeyValues.save": (HELD.handle.save, [((HELD.stored_bytes(2),), U8)]),
}
"""Name -> the call, of the arrays that it writes; and shape and dtype of each."""
CASES = [(name, place) for name, (_, written) in CALLS.items() for place in range(len(written))]


def strided(array):
    """The same shape and dtype, not contiguous."""
    return np.zeros((*array.shape, 2), array.dtype)[..., 0]


def wider(array):
    """Another dtype that converts to and from this one."""
    return array.astype({"f": np.float64, "i": np.int64, "u": np.uint32}[array.dtype.kind])


@pytest.mark.parametrize("name", CALLS)
def test_what_fits_is_written(name):
    call, written = CALLS[name]
    arrays = [np.zeros(shape, dtype) for shape, dtype in written]
    call(*arrays)


@pytest.mark.parametrize("other", [wider, strided])
@pytest.mark.parametrize(("name", "place"), CASES)
def test_an_array_that_would_have_to_be_copied_is_refused(name, place, other):
    call, written = CALLS[name]
    arrays = [np.zeros(shape, dtype) for shape, dtype in written]
    arrays[place] = other(arrays[place])
    # Scales may be of any dtype of the right size: another size is another error.
    with pytest.raises(ValueError if (name, place, other) == ("encode_groups", 1, wider) else TypeError):
        call(*arrays)
    assert not np.asarray(arrays[place]).any()
