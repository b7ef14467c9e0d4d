"""Options of another type are refused where they are given, by name; the engine picks the container."""

from pathlib import Path

import pytest

from halfpint.errors import UsageError
from halfpint.pipeline import verbs
from halfpint.pipeline.options import (
    BenchOptions,
    Budget,
    CalibrationOptions,
    Gate,
    GenerateOptions,
    MeasureOptions,
    QuantizeOptions,
)
from halfpint.planning.engines import ENGINES, FOLDER_ENGINES

WRONG = [
    (QuantizeOptions, "measure", True),
    (QuantizeOptions, "bits", "4"),
    (QuantizeOptions, "bits", 4.0),
    (QuantizeOptions, "bits", True),
    (QuantizeOptions, "format", 4),
    (QuantizeOptions, "rules", "*=q4_k"),
    (QuantizeOptions, "rules", (4,)),
    (QuantizeOptions, "calibrate", "yes"),
    (QuantizeOptions, "gate", 0.9),
    (QuantizeOptions, "budget", 10**9),
    (QuantizeOptions, "plan_file", 3),
    (QuantizeOptions, "calibration", None),
    (QuantizeOptions, "max_memory_bytes", "8GB"),
    (MeasureOptions, "tokens", 1.5),
    (MeasureOptions, "texts", "text.txt"),
    (Gate, "keep", "97%"),
    (Budget, "size_bytes", "3GB"),
    (CalibrationOptions, "seed", None),
    (BenchOptions, "prompts", 128),
    (GenerateOptions, "temperature", "0"),
    (GenerateOptions, "max_tokens", 1e3),
]


@pytest.mark.parametrize(("kind", "name", "value"), WRONG)
def test_a_value_of_another_type_is_refused_by_name(kind, name, value):
    with pytest.raises(UsageError, match=rf"{kind.__name__}: {name} = "):
        kind(**{name: value})


def test_what_is_meant_is_taken():
    assert Gate(keep=1, max_kl=0).wanted
    assert QuantizeOptions(plan_file="plan.toml", rules=["*=q4_k"]).plan_file == "plan.toml"
    assert MeasureOptions(texts=[Path("a.txt")], tokens=5).tokens == 5


@pytest.mark.parametrize("engine", ["", *(engine.name for engine in ENGINES)])
def test_the_engine_picks_the_container(engine):
    wanted = "compressed-tensors" if engine in FOLDER_ENGINES else "gguf"
    assert QuantizeOptions(bits=4, engine=engine).container == wanted
    assert QuantizeOptions(bits=4, engine=engine, container="huggingface").container == "huggingface"


def test_a_verb_refuses_to_overwrite(tmp_path):
    output = tmp_path / "out.gguf"
    output.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        verbs.quantize("demo", output, QuantizeOptions(bits=4, calibrate=False, measure=None))
    assert output.read_text() == "mine"
