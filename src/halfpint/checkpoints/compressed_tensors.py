"""The compressed-tensors folder, which vLLM, transformers and SGLang load: read from anybody's, written by us.

A Hugging Face folder whose config.json says how modules are quantized (`compressed_schemes`) and whose safetensors
files hold packed integers (`packed`) or 8-bit floats (`stored`). Embeddings, output heads, routers and norms stay
in plain floats, because engines build them without quantization.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfpint.checkpoints.checkpoint import Checkpoint, OutputTensor, Writer
from halfpint.checkpoints.compressed_modules import compressed_tensors_of
from halfpint.checkpoints.compressed_schemes import quantization_of, quantization_section, read_schemes
from halfpint.checkpoints.folder_checkpoint import FolderCheckpoint
from halfpint.checkpoints.folder_writer import FolderWriter, PlainSlot, Slot, plan_shards
from halfpint.checkpoints.packed_integers import Float8Slot, PackedSlot
from halfpint.checkpoints.safetensors_header import DTYPES
from halfpint.checkpoints.shards import open_shards
from halfpint.checkpoints.side_files import read_config
from halfpint.checkpoints.staging import Staging, staged
from halfpint.errors import CheckpointError, UnsupportedError
from halfpint.formats.affine import Affine
from halfpint.formats.float8 import Float8
from halfpint.formats.plain import Plain

_SHARD_BYTES = 5_000_000_000

_NEVER_QUANTIZED = frozenset(
    {"lm_head", "embed_out", "output", "score", "classifier", "wte", "wpe", "gate", "router", "shared_expert_gate"}
)
# vLLM computes these together, as one matrix, and takes one scheme for it.
_FUSED: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"(.*\.experts)\.\d+\.\w+"), "all experts of a layer"),
    (re.compile(r"(.*)\.[qkv]_proj"), "q_proj, k_proj and v_proj"),
    (re.compile(r"(.*)\.(?:gate|up)_proj"), "gate_proj and up_proj"),
    (re.compile(r"(.*)\.(?:q_a_proj|kv_a_proj_with_mqa)"), "q_a_proj and kv_a_proj_with_mqa"),
)


@dataclass(frozen=True, slots=True)
class CompressedTensors:
    """Packed integers of 2 to 8 bits and 8-bit floats in linear layers; plain floats elsewhere.

    Attributes
    ----------
    shard_bytes : int
        A new shard begins when one would grow beyond this.
    """

    shard_bytes: int = _SHARD_BYTES

    @property
    def name(self) -> str:
        """The key in `CONTAINERS`."""
        return "compressed-tensors"

    def recognises(self, path: Path) -> bool:
        """A folder whose config.json names compressed-tensors as its quantization."""
        try:
            return path.is_dir() and quantization_of(read_config(path)) is not None
        except CheckpointError:
            return False

    def open(self, path: Path) -> Checkpoint:
        """Open a folder that llm-compressor, transformers or halfpint wrote.

        Raises
        ------
        CheckpointError
            If anything in it is broken or hostile, or its tensors do not fit its config.json.
        UnsupportedError
            If it uses a part of the format that is not read.
        """
        config = read_config(path)
        section = quantization_of(config)
        if section is None:
            raise CheckpointError(f"{path}: config.json does not name compressed-tensors as its quantization")
        schemes = read_schemes(section)
        shards = open_shards(path)
        try:
            return FolderCheckpoint(path, self.name, config, shards, compressed_tensors_of(shards, schemes))
        except BaseException:
            shards.close()
            raise

    def refusal(self, tensor: OutputTensor) -> str | None:
        """Plain floats and copies always; integers and 8-bit floats for linear layers that engines load packed."""
        fmt = tensor.format
        if fmt is None:
            if tensor.dtype in DTYPES:
                return None
            return f"safetensors has no dtype {tensor.dtype}; give {tensor.name} a plain format such as bf16"
        if isinstance(fmt, Plain):
            return None
        if not isinstance(fmt, Affine | Float8):
            return f"compressed-tensors holds int2 to int8 and fp8, not {fmt.name}; write gguf, or choose int4-g128"
        return _unfit(tensor, fmt)

    def notes(self, source: Checkpoint) -> tuple[str, ...]:  # noqa: ARG002 - contract
        """Nothing: engines take the configuration as it is."""
        return ()

    def size(self, source: Checkpoint, outputs: Sequence[OutputTensor]) -> int:  # noqa: ARG002 - contract
        """Exact bytes of the safetensors files."""
        return sum(layout.size for layout in plan_shards(self._slots(outputs), self.shard_bytes).values())

    def create(
        self,
        path: Path,
        source: Checkpoint,
        outputs: Sequence[OutputTensor],
        *,
        replace: bool = False,
        begun: Staging | None = None,
    ) -> Writer:
        """Begin a folder, or go on with one begun; configuration and side files come from the source.

        Raises
        ------
        UsageError
            If the output exists without `replace`, or would touch the source.
        UnsupportedError
            If a tensor cannot be held, or layers that vLLM fuses are to get different formats.
        """
        conflict = fusion_conflict(outputs)
        if conflict is not None:
            raise UnsupportedError(conflict)
        slots = self._slots(outputs)
        config = _config(source, outputs)
        layouts = plan_shards(slots, self.shard_bytes)
        with staged(path, begun, replace=replace) as staging:
            return FolderWriter(staging, source, slots, layouts, config)

    def _slots(self, outputs: Sequence[OutputTensor]) -> list[Slot]:
        slots: list[Slot] = []
        for tensor in outputs:
            refusal = self.refusal(tensor)
            if refusal is not None:
                raise UnsupportedError(refusal)
            if isinstance(tensor.format, Affine):
                slots.append(PackedSlot(tensor, tensor.format))
            elif isinstance(tensor.format, Float8):
                slots.append(Float8Slot(tensor, tensor.format))
            else:
                slots.append(PlainSlot.of(tensor))
        return slots


def fusion_conflict(outputs: Sequence[OutputTensor]) -> str | None:
    """Say which layers that vLLM computes as one matrix would differ in format; None when none do."""
    chosen: dict[tuple[str, str], OutputTensor] = {}
    for tensor in outputs:
        module = tensor.name.removesuffix(".weight")
        if module == tensor.name:
            continue
        for pattern, words in _FUSED:
            match = pattern.fullmatch(module)
            if match is None:
                continue
            other = chosen.setdefault((match[1], words), tensor)
            if _scheme_name(other) != _scheme_name(tensor):
                return (
                    f"{other.name} would be {_scheme_name(other)} and {tensor.name} {_scheme_name(tensor)}, but vLLM "
                    f"computes {words} together and needs one format for them; give them the same"
                )
            break
    return None


def _scheme_name(tensor: OutputTensor) -> str:
    return tensor.dtype if tensor.format is None else tensor.format.name


def _unfit(tensor: OutputTensor, fmt: Affine | Float8) -> str | None:
    module, _, leaf = tensor.name.rpartition(".")
    last = module.rpartition(".")[2]
    if leaf != "weight" or len(tensor.shape) != 2:
        return f"{tensor.name} {list(tensor.shape)} is no weight of a linear layer; keep it in bf16"
    if last in _NEVER_QUANTIZED or "embed" in last or "norm" in last:
        return f"engines load {last} from compressed-tensors in plain floats only; keep it in bf16"
    refusal = fmt.refusal(*tensor.shape)
    if refusal is not None:
        return refusal
    if isinstance(fmt, Affine) and fmt.group_size and tensor.shape[1] % fmt.group_size:
        return (
            f"{tensor.shape[1]} columns do not divide into groups of {fmt.group_size}, which "
            "vLLM and transformers need; choose a group size that divides them, or whole rows"
        )
    return None


def _config(source: Checkpoint, outputs: Sequence[OutputTensor]) -> Mapping[str, Any]:
    config = dict(source.config)
    previous = config.pop("quantization_config", config.pop("compression_config", None))
    if isinstance(previous, Mapping) and previous.get("quant_method") == "mxfp4":
        raise UnsupportedError("the source's mxfp4 experts cannot stand in a compressed-tensors folder")
    formats = {
        tensor.name.removesuffix(".weight"): tensor.format
        for tensor in outputs
        if isinstance(tensor.format, Affine | Float8)
    }
    ignored = [
        tensor.name.removesuffix(".weight")
        for tensor in outputs
        if tensor.name.endswith(".weight") and len(tensor.shape) == 2 and not _is_quantized(tensor)
    ]
    if "lm_head" not in ignored:
        # A tied head is a linear layer of the model, though no tensor of the file.
        ignored.append("lm_head")
    if formats:
        config["quantization_config"] = quantization_section(formats, ignored)
    return config


def _is_quantized(tensor: OutputTensor) -> bool:
    return isinstance(tensor.format, Affine | Float8)
