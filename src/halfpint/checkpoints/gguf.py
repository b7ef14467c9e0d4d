"""The GGUF container: llama.cpp's files. How to recognise, open, plan and write them.

A file holds everything: configuration and tokenizer as metadata, then the tensors. Written from a Hugging Face folder
of a known family, or from another GGUF file, whose metadata is then carried over as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from halfpint import families
from halfpint.checkpoints.checkpoint import Checkpoint, OutputTensor
from halfpint.checkpoints.gguf_header import MAGIC
from halfpint.checkpoints.gguf_layout import GgufLayout
from halfpint.checkpoints.gguf_metadata import GgufValue, ValueType, array, boolean, text, texts, uint32
from halfpint.checkpoints.gguf_names import Place, places
from halfpint.checkpoints.gguf_reader import GgufCheckpoint
from halfpint.checkpoints.gguf_tokenizer import ADDED_TOKENS_KEY, tokenizer_metadata
from halfpint.checkpoints.gguf_types import TYPE_OF_DTYPE, TYPE_OF_FORMAT, TYPES, GgmlType, file_type
from halfpint.checkpoints.gguf_writer import GgufWriter
from halfpint.checkpoints.latest import Latest, folder_key
from halfpint.checkpoints.staging import Staging, staged
from halfpint.errors import CheckpointError, UnsupportedError, UsageError
from halfpint.formats.plain import F32
from halfpint.tensors import FloatArray

_QUANTIZATION_VERSION = 2
_MOST_AXES = 4
_PHI3_TOKENS = frozenset({"<unk>", "<s>", "</s>", "<|endoftext|>"})

# Written anew, or true of the source file only.
_OWN_KEYS = ("general.file_type", "general.quantization_version", "general.alignment")


@dataclass(frozen=True, slots=True)
class GgufContainer:
    """See `halfpint.checkpoints.checkpoint.Container`."""

    name: str = "gguf"

    def recognises(self, path: Path) -> bool:
        """Whether it is a regular file that ends in .gguf or begins with GGUF's magic number."""
        if not path.is_file():
            return False
        if path.suffix.lower() == ".gguf":
            return True
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return os.read(descriptor, len(MAGIC)) == MAGIC
        finally:
            os.close(descriptor)

    def open(self, path: Path) -> GgufCheckpoint:
        """Open a file, or the first of several parts, with every header checked.

        Raises
        ------
        CheckpointError
            If anything in the headers is wrong.
        UnsupportedError
            If they ask for what is not implemented.
        """
        return GgufCheckpoint(path)

    def refusal(self, tensor: OutputTensor) -> str | None:
        """Why GGUF cannot hold the tensor so; None when it can."""
        axes = len(tensor.shape)
        if not 1 <= axes <= _MOST_AXES:
            return f"{tensor.name} has {axes} axes; GGUF holds tensors of 1 to {_MOST_AXES}"
        kind = _type_of(tensor)
        if kind is None:
            word = tensor.dtype if tensor.format is None else tensor.format.name
            return f"GGUF cannot hold {word}; it holds {', '.join(sorted(TYPE_OF_FORMAT))}"
        if axes == 1 and tensor.format is not F32 and not (tensor.format is None and _is_integer(kind)):
            return "llama.cpp wants vectors in f32"
        if kind.dtype is None and 0 in tensor.shape:
            return f"{tensor.name} has no elements, so it has no blocks; keep it in f32"
        if tensor.shape[-1] % kind.block_columns:
            return (
                f"rows of {tensor.shape[-1]} do not divide into {kind.name} blocks of {kind.block_columns}; "
                "choose a format with shorter blocks, such as q8_0, or f16"
            )
        return None

    def notes(self, source: Checkpoint) -> tuple[str, ...]:
        """What llama.cpp will do otherwise than the original."""
        return families.gguf_notes(source.config) if families.find(source.config) is not None else ()

    def size(self, source: Checkpoint, outputs: Sequence[OutputTensor]) -> int:
        """Exact bytes of the file that `create` with the same arguments begins."""
        return _prepare(source, outputs)[0].size

    def create(
        self,
        path: Path,
        source: Checkpoint,
        outputs: Sequence[OutputTensor],
        *,
        replace: bool = False,
        begun: Staging | None = None,
    ) -> GgufWriter:
        """Begin a file beside `path`, or go on with one begun; metadata and tokenizer come from the source.

        Raises
        ------
        UsageError
            If the target is the source, exists without `replace`, or its folder is missing.
        UnsupportedError
            If the model's family is unknown, or llama.cpp could not load what is asked for.
        CheckpointError
            If the outputs leave out tensors of the model, or the source's tokenizer is broken.
        """
        _refuse_source(path, source)
        layout, placed, side = _prepare(source, outputs)
        with staged(path, begun, replace=replace) as staging:
            return GgufWriter(staging, layout, placed, side)


GGUF = GgufContainer()

# A search for a size lays out dozens of files with one tokenizer.
_TOKENIZERS: Latest[dict[str, GgufValue]] = Latest(1)


def _is_integer(kind: GgmlType) -> bool:
    return kind.dtype is not None and kind.dtype.kind == "i"


def _type_of(tensor: OutputTensor) -> GgmlType | None:
    if tensor.format is None:
        return TYPE_OF_DTYPE.get(tensor.dtype.upper())
    return TYPE_OF_FORMAT.get(tensor.format.name)


def _refuse_source(path: Path, source: Checkpoint) -> None:
    files = [part.file.path for part in source.parts] if isinstance(source, GgufCheckpoint) else [source.path]
    for file in files:
        if path.exists() and path.samefile(file):
            raise UsageError(f"{path} is the source itself; give another output")


def _prepare(
    source: Checkpoint, outputs: Sequence[OutputTensor]
) -> tuple[GgufLayout, dict[str, Place], Mapping[str, FloatArray]]:
    """Everything about the file that is known before a weight is read."""
    placed = _places_of(source, outputs)
    kinds: dict[str, GgmlType] = {}
    by_name = {tensor.name: tensor for tensor in outputs}
    for tensor in (by_name[name] for name in placed):
        reason = GGUF.refusal(tensor)
        kind = _type_of(tensor)
        if reason is not None or kind is None:
            raise UnsupportedError(f"{tensor.name}: {reason}")
        gguf_name = placed[tensor.name].gguf_name
        if kinds.setdefault(gguf_name, kind) is not kind:
            raise UnsupportedError(
                f"{tensor.name}: all experts of a layer must have one format in GGUF, "
                f"but {kind.name} and {kinds[gguf_name].name} are planned"
            )
    side = _side_tensors(source)
    shapes = _stored_shapes(placed.values())
    stored = [(name, shapes[name], kind) for name, kind in kinds.items()]
    stored += [(name, values.shape, TYPES[0]) for name, values in side.items()]
    return GgufLayout(_metadata(source, stored), stored), placed, side


def _places_of(source: Checkpoint, outputs: Sequence[OutputTensor]) -> dict[str, Place]:
    if isinstance(source, GgufCheckpoint) and not source.config:
        return {t.name: Place(t.name, t.shape, t.name, None, None, 0.0, False) for t in outputs}
    if families.find(source.config) is None:
        kind = source.config.get("model_type") or source.config.get("architectures")
        said = f"{kind!r} is none" if kind else "nothing names the family of this one"
        said = said if source.config else "there is no config.json beside the weights that names one"
        raise UnsupportedError(
            f"GGUF files are written for known model families, and {said}; there are: {', '.join(families.FAMILIES)}"
        )
    known = places(source.config)
    placed: dict[str, Place] = {}
    for tensor in outputs:
        place = known.get(tensor.name)
        if place is None and isinstance(source, GgufCheckpoint):
            place = Place(tensor.name, tensor.shape, tensor.name, None, None, 0.0, False)
        if place is None:
            raise UnsupportedError(f"llama.cpp knows no tensor {tensor.name} in this model family; leave it out")
        if place.shape != tensor.shape:
            raise CheckpointError(
                f"{tensor.name} has shape {list(tensor.shape)}, but config.json asks for {list(place.shape)}"
            )
        placed[tensor.name] = place
    missing = [name for name, place in known.items() if name not in placed and not place.optional]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"tensors of the model are missing: {missing[0]}{others}")
    # In the order of the forward pass, whatever the source's, so that reading a model reads the file onwards.
    return {name: placed[name] for name in (*known, *placed) if name in placed}


def _stored_shapes(placed: Iterable[Place]) -> dict[str, tuple[int, ...]]:
    """Shapes of the file's tensors: experts are stacked."""
    counts: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for place in placed:
        counts[place.gguf_name] = counts.get(place.gguf_name, 0) + 1
        shapes[place.gguf_name] = place.shape if place.expert is None else (counts[place.gguf_name], *place.shape)
    return shapes


def _side_tensors(source: Checkpoint) -> Mapping[str, FloatArray]:
    if isinstance(source, GgufCheckpoint):
        return source.side_tensors
    return families.gguf_tensors(source.config)


def _metadata(source: Checkpoint, stored: Sequence[tuple[str, tuple[int, ...], GgmlType]]) -> dict[str, GgufValue]:
    matrices = [(kind, int(np.prod(shape, dtype=object))) for _, shape, kind in stored if len(shape) > 1]
    own = {
        "general.file_type": uint32(file_type(matrices)),
        "general.quantization_version": uint32(_QUANTIZATION_VERSION),
    }
    if isinstance(source, GgufCheckpoint):
        kept = {
            key: value
            for key, value in source.metadata.items()
            if key not in _OWN_KEYS and not key.startswith("split.")
        }
        return kept | own
    config = {key: _value(key, value) for key, value in families.gguf_metadata(source.config).items()}
    folder = source.path if source.path.is_dir() else source.path.parent
    key = folder_key(folder, source.config)
    tokenizer = _TOKENIZERS.get(key, lambda: tokenizer_metadata(folder, source.config))
    # A name that is no UTF-8 gets U+FFFD in the place of what is not.
    name = os.fsencode(source.path.resolve().name).decode("utf-8", "replace")
    named = _named(name, source.config, tokenizer)
    return config | {"general.type": text("model")} | named | own | tokenizer


def _named(name: str, config: Mapping[str, Any], tokenizer: Mapping[str, GgufValue]) -> dict[str, GgufValue]:
    """Give a name under which llama.cpp treats the spaces after special tokens as the tokenizer does; or none.

    llama.cpp takes them away in every model whose name says Phi-3, and does not load the file when some token of that
    model's is missing (`impl::load` in its llama-vocab.cpp).
    """
    tokens = tokenizer.get("tokenizer.ggml.tokens")
    complete = config.get("model_type") == "phi3" and tokens is not None and set(tokens.data) >= _PHI3_TOKENS
    says_so = any(word in name.lower() for word in ("phi-3", "phi3"))
    if complete and ADDED_TOKENS_KEY in tokenizer and not says_so:
        return {"general.name": text(f"{name} (Phi-3)")}
    return {} if says_so and not complete else {"general.name": text(name)}


def _value(key: str, value: families.GgufValue) -> GgufValue:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bool):
        return boolean(value)
    if isinstance(value, float):
        return GgufValue(ValueType.FLOAT32, value)
    if isinstance(value, int):
        if not 0 <= value < 1 << 32:
            raise UnsupportedError(f"{key} = {value} does not fit GGUF's 32 bits")
        return uint32(value)
    if value and isinstance(value[0], str):
        return texts([str(item) for item in value], key)
    element = ValueType.FLOAT32
    if value and isinstance(value[0], int):
        element = ValueType.BOOL if isinstance(value[0], bool) else ValueType.UINT32
    return array(np.array(value), element)
