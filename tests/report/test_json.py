from __future__ import annotations

import dataclasses
import json
import math

import handmade
import numpy as np
import pytest

from halfpint.report import json as objects

MEASURE_KEYS = {
    "tokens",
    "kl_mean",
    "kl_mean_stderr",
    "kl_median",
    "kl_p99",
    "kl_p999",
    "kl_max",
    "top1_agreement",
    "top1_agreement_stderr",
    "perplexity",
    "reference_perplexity",
    "perplexity_ratio",
    "perplexity_ratio_stderr",
}
FIGURES = {
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "read_bandwidth",
    "integer_peak",
    "bandwidth_share",
    "arithmetic_share",
}
BENCH_KEYS = {
    "load_seconds",
    "peak_memory_bytes",
    "threads",
    "version",
    "numpy",
    "processor",
    "kernel",
    "spread",
    "rows",
}
PLAN_KEYS = {"bytes", "bits_per_weight", "tensors", "engines", "forecast"}
PROMISED = {
    "inspect": (
        objects.inspection(handmade.INSPECTION),
        {"family", "parameters", "bytes", "bytes_at", "tensors"},
    ),
    "plan": (objects.plan(handmade.PLANNED), PLAN_KEYS),
    "quantize": (
        objects.quantized(handmade.QUANTIZED),
        PLAN_KEYS | {"seconds", "peak_memory_bytes", "output", "verdict", "quality"},
    ),
    "measure": (objects.measurement(handmade.MEASUREMENT), MEASURE_KEYS | {"bytes", "bits_per_weight"}),
    "generate": (
        objects.generated(handmade.GENERATED),
        {
            "text",
            "prompt_tokens",
            "generated_tokens",
            "prefill_tokens_per_second",
            "decode_tokens_per_second",
            "peak_memory_bytes",
        },
    ),
    "demo": (objects.demo(handmade.DEMO), {"original", "quantized"}),
    "verify": (objects.verified(handmade.VERIFIED), {"container", "family", "tensors", "bytes", "parameters"}),
    "bench": (objects.benched(handmade.BENCHED), BENCH_KEYS | FIGURES),
    "doctor": (objects.doctor(handmade.DOCTOR), {"version", "kernel", "memory_bytes", "packages"}),
    "inspect TENSOR": (
        objects.tensor_view(handmade.TENSOR_VIEW),
        {"name", "shape", "dtype", "bytes", "minimum", "maximum", "histogram", "roundings"},
    ),
}


@pytest.mark.parametrize("command", PROMISED)
def test_the_promised_keys_are_there(command):
    made, promised = PROMISED[command]
    read = json.loads(objects.dumps(made))
    assert isinstance(read, dict)
    assert promised <= set(read)


def test_parts_have_the_promised_keys():
    inspected = objects.inspection(handmade.INSPECTION)
    assert set(inspected["bytes_at"]) == {"32", "16", "8", "4"}
    assert set(inspected["tensors"][0]) == {"name", "shape", "dtype", "bytes"}
    planned = objects.plan(handmade.PLANNED)
    assert {"name", "format", "solver", "bytes", "rule"} <= set(planned["tensors"][0])
    assert set(planned["forecast"]) == {
        "peak_memory_bytes",
        "seconds",
        "comparison_seconds",
        "kl_interval",
        "kl_mean",
        "calibration_tokens",
    }
    quantized = objects.quantized(handmade.QUANTIZED)
    assert MEASURE_KEYS | {"bytes", "bits_per_weight"} <= set(quantized["quality"])
    told = objects.demo(handmade.DEMO)
    for entry in (told["original"], *told["quantized"]):
        assert MEASURE_KEYS | {"name", "bytes", "bits_per_weight", "decode_tokens_per_second"} <= set(entry)


def test_a_benchmark_stands_for_its_longest_prompt_and_says_how_far_samples_lay_apart():
    told = objects.benched(handmade.BENCHED)
    assert [row["prompt_tokens"] for row in told["rows"]] == [128, 512]
    for row in told["rows"]:
        assert set(row) == FIGURES | {"prompt_tokens", "tokens", "spread"}
        assert all(low <= row[name] <= high for name, (low, high) in row["spread"].items())
    assert {name: told[name] for name in FIGURES} == {name: told["rows"][1][name] for name in FIGURES}


def test_without_a_comparison_quality_is_null():
    read = json.loads(objects.dumps(objects.quantized(handmade.UNMEASURED)))
    assert read["quality"] is None
    assert read["verdict"] == "UNMEASURED"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("inf")])
def test_a_number_that_is_not_finite_is_null(number):
    assert json.loads(objects.dumps({"value": number, "deep": [{"value": number}]})) == {
        "value": None,
        "deep": [{"value": None}],
    }


def test_an_unknown_error_bar_is_null():
    unsure = dataclasses.replace(handmade.MEASUREMENT, quality=handmade.ONE_WINDOW)
    text = objects.dumps(objects.measurement(unsure))
    assert "NaN" not in text
    assert json.loads(text)["kl_mean_stderr"] is None


def test_arrays_and_numbers_of_numpy_become_plain():
    read = objects.plain({"counts": np.arange(3), "one": np.int64(5), "flag": np.bool_(True), "half": np.float16(0.5)})
    assert read == {"counts": [0, 1, 2], "one": 5, "flag": True, "half": 0.5}
    assert all(type(entry) is int for entry in read["counts"])


def test_json_is_ascii_so_that_no_text_can_drive_a_terminal():
    text = objects.dumps({"name": "a\x1b[2J\x9b31m\udc80é"})
    assert text.isascii()
    assert "\x1b" not in text
    assert json.loads(text)["name"] == "a\x1b[2J\x9b31m\udc80é"
