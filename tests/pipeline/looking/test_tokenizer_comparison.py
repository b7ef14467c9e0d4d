"""`measure` uses the original's tokens, and says where the model's own tokenizer would give others."""

import json
import shutil

import pytest

from halfpint.models import opening
from halfpint.pipeline import verbs
from halfpint.pipeline.options import MeasureOptions, QuantizeOptions
from halfpint.report import json as objects
from halfpint.report.quality import measure_markdown

OPTIONS = MeasureOptions(tokens=200, window_tokens=64)


def changed(folder, file, change):
    """A copy of the demo model with one JSON file changed."""
    shutil.copytree(opening.demo_folder(), folder)
    value = json.loads((folder / file).read_text())
    change(value)
    (folder / file).write_text(json.dumps(value))
    return folder


def drop_last_merges(spelled):
    del spelled["model"]["merges"][-300:]


def strip_beside_added(settings):
    settings["added_tokens_decoder"]["0"]["rstrip"] = True


def another_template(settings):
    settings["chat_template"] = "{% for m in messages %}{{ m.content }}{% endfor %}"


def another_normalizer(spelled):
    spelled["normalizer"] = {"type": "Lowercase"}


def end_elsewhere(settings):
    settings["eos_token_id"] = 7


DIFFERENCES = {
    "merges": ("tokenizer.json", drop_last_merges, "texts measured on"),
    "a normalizer": ("tokenizer.json", another_normalizer, "texts measured on"),
    "spaces beside added tokens": ("tokenizer_config.json", strip_beside_added, "lines with added tokens"),
    "the template": ("tokenizer_config.json", another_template, "chat template"),
    "stop tokens": ("config.json", end_elsewhere, "stops at tokens"),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_measuring_says_where_tokenizers_disagree(name, tmp_path):
    file, change, words = DIFFERENCES[name]
    folder = changed(tmp_path / "model", file, change)
    if name == "the template":
        (folder / "chat_template.jinja").unlink(missing_ok=True)
    found = verbs.measure(folder, "demo", OPTIONS)
    assert [note for note in found.notes if words in note]
    assert objects.measurement(found)["notes"] == list(found.notes)
    assert "Note: " in measure_markdown(found, "model", "demo")


def test_a_model_that_cannot_read_text_is_measured_on_its_original_s_tokens(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(opening.demo_folder(), folder)
    (folder / "tokenizer.json").unlink()
    (note,) = verbs.measure(folder, "demo", OPTIONS).notes
    assert "cannot be loaded" in note


@pytest.mark.parametrize(
    ("fmt", "container", "output"), [("q8_0", "gguf", "made.gguf"), ("int4-g64", "compressed-tensors", "made")]
)
def test_equal_tokenizers_are_not_mentioned(fmt, container, output, tmp_path):
    options = QuantizeOptions(format=fmt, container=container, calibrate=False, measure=OPTIONS)
    made = verbs.quantize("demo", tmp_path / output, options)
    assert made.measurement is not None
    assert made.measurement.notes == ()
    assert verbs.measure(tmp_path / output, "demo", OPTIONS).notes == ()
