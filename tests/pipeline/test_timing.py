"""The forecast of a job's time: it grows with what there is to do, and knows who needs no text."""

import pytest

from halfpint.checkpoints import open_checkpoint
from halfpint.kernels.machine import set_thread_count, thread_count
from halfpint.pipeline.deciding import decide
from halfpint.pipeline.opening import demo_folder
from halfpint.pipeline.timing import job_seconds, stream_seconds
from job_processes import options

TOKENS = 8192


@pytest.fixture(scope="module")
def source():
    return open_checkpoint(demo_folder())


@pytest.fixture(scope="module")
def plan(source):
    return decide(source, options("gguf", bits=4, calibrate=True)).plan


def test_text_takes_time_in_proportion(source, plan):
    assert stream_seconds(plan, 2 * TOKENS) == pytest.approx(2 * stream_seconds(plan, TOKENS))
    more = job_seconds(source, plan, 2 * TOKENS) - job_seconds(source, plan, TOKENS)
    assert more == pytest.approx(stream_seconds(plan, TOKENS))


def test_a_job_without_text_costs_the_same_however_much_there_is(source):
    plain = decide(source, options("gguf", bits=4, calibrate=False)).plan
    assert job_seconds(source, plain, TOKENS) == job_seconds(source, plain, 2 * TOKENS)


def test_solving_costs_more_than_rounding(source, plan):
    plain = decide(source, options("gguf", bits=4, calibrate=False)).plan
    assert job_seconds(source, plan, 0) > job_seconds(source, plain, 0)


def test_threads_share_the_solving(source, plan):
    before = thread_count()
    try:
        set_thread_count(1)
        alone = job_seconds(source, plan, 0)
        set_thread_count(2)
        assert job_seconds(source, plan, 0) == pytest.approx(alone / 2)
    finally:
        set_thread_count(before)
