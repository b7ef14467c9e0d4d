"""Every format is a lattice: a tensor taken apart has the decoded values, and put together again the same bytes."""

import numpy as np
import pytest

from halfpint import formats, kernels
from halfpint.formats.plain import Plain
from halfpint.solvers import scalar_grids
from solvers.layers import weight
from ugly_weights import kinds

QUANTIZED = [fmt for fmt in formats.FORMATS.values() if not isinstance(fmt, Plain)]


def same_bytes(left, right):
    assert left.keys() == right.keys()
    for name, part in left.items():
        assert part.dtype == right[name].dtype
        assert part.shape == right[name].shape
        assert np.array_equal(part.view(np.uint8), right[name].view(np.uint8)), name


def test_every_format_but_plain_floats_has_a_lattice():
    assert [fmt for fmt in formats.FORMATS.values() if scalar_grids.supports(fmt)] == QUANTIZED


@pytest.mark.parametrize("fmt", QUANTIZED, ids=lambda fmt: fmt.name)
def test_what_is_read_and_written_again_has_the_same_bytes_and_values(fmt):
    coded = kernels.encode(weight(130, 512), fmt)
    grid = scalar_grids.read(coded)
    decoded = kernels.decode(coded)
    assert np.abs(grid.values() - decoded).max() <= 1e-6 * np.abs(decoded).max()
    same_bytes(scalar_grids.write(grid, coded).parts, coded.parts)
    assert (np.diff(grid.lattice.levels) > 0).all()
    assert grid.lattice.block_columns % grid.lattice.group_columns == 0


@pytest.mark.parametrize("fmt", [fmt for fmt in QUANTIZED if fmt.refusal(3, 300) is None], ids=lambda fmt: fmt.name)
def test_short_last_groups_too(fmt):
    coded = kernels.encode(weight(3, 300), fmt)
    same_bytes(scalar_grids.write(scalar_grids.read(coded), coded).parts, coded.parts)


@pytest.mark.parametrize("name", ["q4_k", "q8_0", "int4-g128-asym", "int2-g16", "nf4", "mxfp4", "nvfp4", "fp8"])
def test_ugly_weights_too(name):
    fmt = formats.by_name(name)
    for _, values in kinds(rows=3, columns=256):
        coded = kernels.encode(values, fmt)
        again = scalar_grids.write(scalar_grids.read(coded), coded)
        # The codes of fp8 may hold a minus zero, which is written as zero.
        assert np.array_equal(kernels.decode(again), kernels.decode(coded))
        assert np.isfinite(scalar_grids.read(coded).values()).all()


@pytest.mark.parametrize("name", ["q4_k", "q4_1", "int4-g32-asym", "iq4_xs", "nvfp4"])
def test_columns_cut_out_and_put_back_change_nothing(name):
    coded = kernels.encode(weight(5, 512), formats.by_name(name))
    whole, other = (
        scalar_grids.read(coded),
        scalar_grids.read(kernels.encode(weight(5, 512, seed=9), formats.by_name(name))),
    )
    piece = whole.columns(256, 512)
    assert np.array_equal(piece.values(), whole.values()[:, 256:])
    other.put(256, piece)
    other.put(0, whole.columns(0, 256))
    assert np.array_equal(other.values(), whole.values())


def test_a_part_of_a_row_with_one_scale_keeps_it():
    whole = scalar_grids.read(kernels.encode(weight(5, 300), formats.by_name("int4-asym")))
    piece = whole.columns(100, 200)
    assert piece.lattice.scale_dtype is None
    assert np.array_equal(piece.values(), whole.values()[:, 100:200])


@pytest.mark.parametrize("name", ["q4_k", "int4-g32-asym", "q4_1"])
def test_directions_say_how_values_grow_with_scale_and_minimum(name):
    grid = scalar_grids.read(kernels.encode(weight(4, 256), formats.by_name(name)))
    per_scale, per_minimum = grid.directions(0, 256)
    width = grid.lattice.block_columns
    spread = [np.repeat(each, width, axis=1)[:, :256] for each in (grid.scale, grid.minimum)]
    rebuilt = per_scale * spread[0] + per_minimum * spread[1]
    assert np.abs(rebuilt - grid.values()).max() < 1e-6
