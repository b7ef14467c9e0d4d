"""The forecast of a job's time: it grows with what there is to do, and knows who needs no text."""

import pytest

import tiny_models
from halfpint.checkpoints import open_checkpoint
from halfpint.models.opening import demo_folder
from halfpint.pipeline.choosing.plan_selection import decide
from halfpint.pipeline.choosing.time_forecast import job_seconds, stream_seconds
from job_processes import options

TOKENS = 8192
# To start the program, whatever the model.
START = 0.6


def attended(source, tokens):
    """Seconds in which both streams attend to windows of 256 tokens."""
    return 2 * source.config["num_hidden_layers"] * source.config["num_attention_heads"] * tokens * 256 / 100e6


@pytest.fixture(scope="module")
def source():
    return open_checkpoint(demo_folder())


@pytest.fixture(scope="module")
def plan(source):
    return decide(source, options("gguf", bits=4, calibrate=True)).plan


def test_text_takes_time_in_proportion(source, plan):
    assert stream_seconds(plan, 2 * TOKENS) == pytest.approx(2 * stream_seconds(plan, TOKENS))
    more = job_seconds(source, plan, 2 * TOKENS) - job_seconds(source, plan, TOKENS)
    # Attention is not in the matrices of the plan.
    assert more == pytest.approx(stream_seconds(plan, TOKENS) + attended(source, TOKENS))


def test_a_job_without_text_costs_the_same_however_much_there_is(source):
    plain = decide(source, options("gguf", bits=4, calibrate=False)).plan
    assert job_seconds(source, plain, TOKENS) == job_seconds(source, plain, 2 * TOKENS)


def test_the_smallest_model_takes_as_long_as_the_program_needs_to_start(tmp_path):
    """A forecast of milliseconds is of no use where nothing ends in less than half a second."""
    tiny_models.save_tiny("llama", tmp_path / "tiny")
    tiny = open_checkpoint(tmp_path / "tiny")
    made = decide(tiny, options("gguf", bits=8, calibrate=False))
    assert START <= made.seconds < 2 * START


def test_the_embedded_model_takes_what_was_measured(source, threads):
    """Seconds of one idle thread: 48 for the job, 55 for the comparison."""
    threads(1)
    made = decide(source, options("gguf", bits=4, calibrate=True))
    assert 48 / 2 < made.seconds < 48 * 2
    assert 55 / 2 < made.comparison_seconds < 55 * 2


def test_solving_costs_more_than_rounding(source, plan):
    plain = decide(source, options("gguf", bits=4, calibrate=False)).plan
    assert job_seconds(source, plan, 0) > job_seconds(source, plain, 0)


def test_threads_share_the_solving(source, plan, threads):
    threads(1)
    alone = job_seconds(source, plan, 0)
    threads(2)
    assert job_seconds(source, plan, 0) - START == pytest.approx((alone - START) / 2)
