"""A model that goes from a folder into GGUF and out again keeps its tokenizer, or the job says why it cannot."""

import json
import shutil

import pytest

import made_tokenizers
from halfpint.checkpoints import open_checkpoint
from halfpint.errors import CheckpointError, UnsupportedError
from halfpint.models import opening
from halfpint.pipeline import verbs
from halfpint.pipeline.options import GenerateOptions, QuantizeOptions
from halfpint.pipeline.running import text_generation
from halfpint.tokenization import has_tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def demo_gguf(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "demo.gguf"
    return verbs.quantize("demo", path, QuantizeOptions(format="q8_0", calibrate=False, measure=None)).output


@pytest.mark.parametrize(("container", "fmt"), [("compressed-tensors", "int4-g64"), ("huggingface", "bf16")])
def test_a_folder_made_from_gguf_has_the_tokenizer_and_runs(demo_gguf, tmp_path, container, fmt):
    folder = verbs.quantize(
        demo_gguf, tmp_path / "out", QuantizeOptions(format=fmt, container=container, calibrate=False, measure=None)
    ).output
    assert has_tokenizer(open_checkpoint(folder))
    original, made = (load_tokenizer(open_checkpoint(path)) for path in (opening.demo_folder(), folder))
    for line in made_tokenizers.lines(200):
        assert made.encode(line) == original.encode(line), line
        assert made.encode(line, add_special=False) == original.encode(line, add_special=False), line
    assert made.eos_ids == original.eos_ids
    messages = [{"role": "user", "content": "Where is the key?"}]
    assert made.apply_chat_template(messages) == original.apply_chat_template(messages)
    assert verbs.verify(folder).container == container
    answer = text_generation.generate(folder, "The old house", GenerateOptions(max_tokens=8, temperature=0))
    assert answer.generated_tokens > 0


def of_another_kind(path, demo_gguf, kind):
    """Copy a file, with another word of as many letters for the kind of its tokenizer."""
    data = demo_gguf.read_bytes()
    at = data.index(b"gpt2", data.index(b"tokenizer.ggml.model"))
    path.write_bytes(data[:at] + kind + data[at + len(kind) :])
    return path


def test_a_tokenizer_that_is_not_known_stops_the_job_and_leaves_nothing(demo_gguf, tmp_path):
    source = of_another_kind(tmp_path / "source.gguf", demo_gguf, b"bert")
    with pytest.raises(UnsupportedError, match="no tokenizer of kind 'bert'"):
        verbs.quantize(
            source,
            tmp_path / "out",
            QuantizeOptions(bits=4, container="compressed-tensors", calibrate=False, measure=None),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]


def test_weights_without_a_tokenizer_stay_without(demo_gguf, tmp_path):
    source = of_another_kind(tmp_path / "source.gguf", demo_gguf, b"none")
    folder = verbs.quantize(
        source, tmp_path / "out", QuantizeOptions(bits=4, container="compressed-tensors", calibrate=False, measure=None)
    ).output
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert not has_tokenizer(open_checkpoint(source))
    assert not has_tokenizer(open_checkpoint(folder))
    with pytest.raises(UnsupportedError, match="no tokenizer"):
        load_tokenizer(open_checkpoint(folder))


def demo_with(folder, change):
    """A copy of the demo model whose tokenizer.json is changed."""
    shutil.copytree(opening.demo_folder(), folder)
    spelled = json.loads((folder / "tokenizer.json").read_text())
    change(spelled)
    (folder / "tokenizer.json").write_text(json.dumps(spelled))
    return folder


def test_verify_names_added_tokens_without_a_row(tmp_path):
    rows = open_checkpoint(opening.demo_folder()).config["vocab_size"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}

    def add(spelled):
        spelled["added_tokens"].append({"id": rows, "content": "<image>", **flags})

    notes = verbs.verify(demo_with(tmp_path / "model", add)).notes
    assert [note for note in notes if "<image>" in note and "no row" in note]
    assert not [note for note in verbs.verify(opening.demo_folder()).notes if "no row" in note]


def test_verify_refuses_the_tokenizer_of_a_larger_model(tmp_path):
    folder = demo_with(tmp_path / "model", lambda _: None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "tokenizer.json").write_text(made_tokenizers.byte_level([made_tokenizers.TO_BYTES]).to_str())
    assert len(made_tokenizers.byte_level([made_tokenizers.TO_BYTES]).get_vocab()) < config["vocab_size"]
    verbs.verify(folder)
    spelled = json.loads((folder / "tokenizer.json").read_text())
    spelled["model"]["vocab"] |= {f"more{n}": config["vocab_size"] + n for n in range(3)}
    (folder / "tokenizer.json").write_text(json.dumps(spelled))
    with pytest.raises(CheckpointError, match="rows of embeddings"):
        verbs.verify(folder)
