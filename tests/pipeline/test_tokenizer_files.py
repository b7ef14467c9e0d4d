"""A model that goes from a folder into GGUF and out again keeps its tokenizer, or the job says why it cannot."""

import pytest

import made_tokenizers
from halfpint.checkpoints import open_checkpoint
from halfpint.errors import UnsupportedError
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
