"""Probes see every word and every product, with any number of threads and every instruction set."""

import numpy as np
import pytest

from halfpint.errors import UsageError
from halfpint.kernels import _native, machine, probe


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = machine.thread_count()
    machine.set_thread_count(request.param)
    yield request.param
    machine.set_thread_count(before)


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize("words", [1, 7, 63, 64, 65, 1000, 4099])
def test_every_word_is_read(words):
    """The native probe gives 0 unless the sum is that of ones."""
    memory = np.ones(words, np.uint64)
    assert _native.read_bandwidth(memory, 3) > 0
    for position in {0, words // 2, words - 1}:
        memory[position] = 0
        assert _native.read_bandwidth(memory, 3) == 0
        memory[position] = 1


@pytest.mark.usefixtures("isa", "threads")
def test_the_peak_of_arithmetic_is_measured():
    assert _native.integer_peak(1) > 0
    assert _native.integer_instruction()


def test_the_memory_read_is_more_than_caches_hold_and_bounded():
    assert probe.Probe(1).nbytes == probe.LEAST_BYTES
    assert probe.Probe(300 * 2**20).nbytes == 300 * 2**20
    assert probe.MOST_BYTES == 2**30


def test_both_limits_at_once():
    limits = probe.Probe().measure()
    assert limits.read_bandwidth > 0
    assert limits.integer_peak > 0


def test_a_share_is_a_part_of_a_limit():
    assert probe.share(30.0, 2.0, 20.0) == pytest.approx(0.75)
    for seconds, limit in ((0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)):
        with pytest.raises(UsageError, match="no share"):
            probe.share(1.0, seconds, limit)
