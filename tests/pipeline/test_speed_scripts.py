"""The scripts behind the claims of speed and memory measure what they say."""

import argparse

import pytest

import first_token
import halfpint
import linear_layers
import peak_memory
from halfpint.kernels import _native, machine
from halfpint.pipeline.options import QuantizeOptions
from speed_peers import EngineRefusedError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    target = tmp_path_factory.mktemp("speed") / "demo.gguf"
    halfpint.quantize("demo", target, QuantizeOptions(format="q4_k", calibrate=False, measure=None))
    return target


@pytest.fixture(autouse=True)
def as_before():
    threads = machine.thread_count()
    yield
    machine.set_thread_count(threads)
    _native.force_isa(_native.best_isa())


def limited(model, limit_gb):
    return argparse.Namespace(
        model=model, context=64, tokens=4, limit_gb=limit_gb, threads=1, address_space=False, kv_cache="f16"
    )


def test_peak_memory_counts_the_whole_process(model):
    row = peak_memory.measure(limited(model, 4.0))
    assert row["weights GB"] == pytest.approx(model.stat().st_size / 1e9, rel=0.1)
    assert row["peak GB"] == pytest.approx(row["weights GB"] + row["over GB"])
    assert 0 < row["over GB"] < 0.6


def test_a_limit_that_is_too_low_is_met_with_an_end(model):
    with pytest.raises(EngineRefusedError):
        peak_memory.measure(limited(model, 0.02))


def test_the_first_token_comes_before_the_process_ends():
    row = first_token.measure("demo", rounds=1, threads=1)
    assert 0 < row["first s"] <= row["process s"]
    assert row["prompt tokens"] == 20


def test_every_weight_of_the_blocks_is_multiplied(model):
    weights = linear_layers.Weights(str(model))
    with_seven = 8 * 7
    assert sum(map(len, weights.groups)) == with_seven
    assert len(weights.groups) == 8 * 4
    arguments = argparse.Namespace(tokens=[1, 3], repeats=2)
    for row in linear_layers.rows(weights, arguments):
        assert row["lowest"] <= row["ms"] <= row["highest"]
        assert row["Gop/s"] == pytest.approx(row["tokens"] * weights.operations / row["ms"] / 1e6)
        assert min(row["of peak"], row["of memory"]) > 0
