"""What a benchmark makes of its samples, and which lengths it tries."""

import pytest

from halfpint.engine.cost import TokenCost
from halfpint.errors import RoomError, UsageError
from halfpint.kernels.probe import Limits
from halfpint.models.opening import open_model
from halfpint.pipeline import verbs
from halfpint.pipeline.options import BenchOptions
from halfpint.pipeline.running.benchmarking import USUAL_PROMPTS, Bench, Sample, spread


@pytest.fixture(scope="module")
def bench():
    checkpoint = open_model("demo")
    yield Bench.load(checkpoint)
    checkpoint.close()


def test_the_spread_of_samples():
    found = spread(iter([3.0, 1.0, 2.0]))
    assert (found.median, found.lowest, found.highest) == (2.0, 1.0, 3.0)


def test_shares_are_of_the_limits_beside_each_sample(bench):
    cost = TokenCost(weight_bytes=1e6, block_operations=2e6, head_operations=1e6)
    samples = [Sample(0.5, 2.0, Limits(1e7, 1e8)), Sample(1.0, 4.0, Limits(5e6, 5e7))]
    row = Bench(bench.decoder, cost).row(10, BenchOptions(tokens=8), samples)
    assert row.prefill_tokens_per_second.highest == 20
    assert row.decode_tokens_per_second.lowest == 2
    # 8 tokens of 1 MB in 2 s are 4 MB/s of 10; in 4 s they are 2 MB/s of 5.
    assert row.bandwidth_share.lowest == row.bandwidth_share.highest == pytest.approx(0.4)
    # 10 tokens of 2 million operations and one head in 0.5 s are 42 million of 100; in 1 s 21 of 50.
    assert row.arithmetic_share.lowest == row.arithmetic_share.highest == pytest.approx(0.42)


def test_usual_lengths_are_those_that_fit(bench):
    context = bench.decoder.config.max_positions
    assert bench.prompts((), 1) == tuple(length for length in USUAL_PROMPTS if length < context)
    assert bench.prompts((), context - 1) == (1,)
    assert bench.prompts((5, 3), 2) == (5, 3)
    for prompts, tokens in (((context,), 1), ((), context)):
        with pytest.raises(RoomError, match="fewer --tokens"):
            bench.prompts(prompts, tokens)


def test_texts_together_read_the_weights_once(bench):
    cost = TokenCost(weight_bytes=1e6, block_operations=2e6, head_operations=0.0)
    row = Bench(bench.decoder, cost).row(10, BenchOptions(tokens=8, batch=4), [Sample(1.0, 2.0, Limits(1e7, 1e9))])
    assert row.prefill_tokens_per_second.median == 40
    assert row.decode_tokens_per_second.median == 16
    assert row.arithmetic_share.median == pytest.approx(0.08)
    assert row.bandwidth_share.median == pytest.approx(0.4)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_work_of_a_sample_is_done(bench, batch):
    assert min(bench.run(3, 2, batch, seed=1)) > 0


def test_the_record_counts_what_was_asked_for():
    seen = []
    options = BenchOptions(prompts=(4, 6), tokens=3, repeats=2)
    found = verbs.bench("demo", options, lambda *step: seen.append(step))
    assert [row.prompt_tokens for row in found.rows] == [4, 6]
    assert found.longest.prompt_tokens == 6
    assert found.weight_bytes_per_token <= found.weight_bytes
    assert seen[-1][:3] == ("bench", 32, 32)


@pytest.mark.parametrize("wrong", [{"prompts": (0,)}, {"tokens": 0}, {"repeats": 0}, {"batch": 0}])
def test_nothing_to_do_is_refused(wrong):
    with pytest.raises(UsageError, match="positive"):
        BenchOptions(**wrong)
