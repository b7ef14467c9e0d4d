"""The benchmark of products multiplies with what it says, and its shares are of what it probes."""

import numpy as np
import pytest

import linear_kernels


@pytest.mark.parametrize("name", ["q8_0", "int4-g128"])
def test_a_sample_reads_a_set_of_matrices(name):
    matrices = linear_kernels.weights(name, megabytes=40)
    assert len(matrices) == 40 * 2**20 // matrices[0].nbytes
    assert all(matrix.shape == (linear_kernels.ROWS, linear_kernels.COLUMNS) for matrix in matrices)
    taken = [linear_kernels.sample(matrices, tokens=1, memory=np.ones(2**16, np.uint64)) for _ in range(3)]
    assert all(one.bytes_per_second > 0 and one.share > 0 for one in taken)
    row = linear_kernels.row(name, 2, 1, taken)
    assert row["lowest_share"] <= row["bandwidth_share"] <= row["highest_share"]
