"""The Hugging Face folder: config.json, safetensors in one file or in shards, and files beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfpint.checkpoints.checkpoint import Checkpoint, OutputTensor, Writer
from halfpint.checkpoints.folder_checkpoint import FolderCheckpoint
from halfpint.checkpoints.folder_writer import FolderWriter, PlainSlot, plan_shards
from halfpint.checkpoints.safetensors_header import DTYPES
from halfpint.checkpoints.shards import Shards, check_no_pickle, has_safetensors, open_shards
from halfpint.checkpoints.side_files import read_config
from halfpint.checkpoints.staging import Staging, staged
from halfpint.checkpoints.stored import PlainTensor, StoredTensor, float8_tensors, plain_spec
from halfpint.errors import CheckpointError, UnsupportedError
from halfpint.formats.plain import Plain

_READ_METHODS = frozenset({"fp8", "fbgemm_fp8", "mxfp4", "compressed-tensors"})
_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True, slots=True)
class HuggingFace:
    """Plain floats, and 8-bit floats with scales (read only), under the model's own names.

    Attributes
    ----------
    shard_bytes : int
        A new shard begins when one would grow beyond this.
    """

    shard_bytes: int = _SHARD_BYTES

    @property
    def name(self) -> str:
        """The key in `CONTAINERS`."""
        return "huggingface"

    def recognises(self, path: Path) -> bool:
        """Any folder with safetensors or pickles in it, and any such file."""
        if path.is_dir():
            return has_safetensors(path)
        return path.suffix == ".safetensors"

    def open(self, path: Path) -> Checkpoint:
        """Open a folder or a bare `.safetensors` file.

        Raises
        ------
        CheckpointError
            If anything in it is broken or hostile.
        UnsupportedError
            If it holds pickles only, or is quantized in a way that is not read.
        """
        check_no_pickle(path)
        config = read_config(path) if path.is_dir() else {}
        check_quantization(config)
        shards = open_shards(path)
        try:
            return FolderCheckpoint(path, self.name, config, shards, _stored(shards))
        except BaseException:
            shards.close()
            raise

    def refusal(self, tensor: OutputTensor) -> str | None:
        """Plain floats of any shape, and whatever is copied from safetensors."""
        if tensor.format is None:
            if tensor.dtype in DTYPES:
                return None
            return f"safetensors has no dtype {tensor.dtype}; give {tensor.name} a plain format such as bf16"
        if isinstance(tensor.format, Plain):
            return None
        return (
            f"a Hugging Face folder holds f32, f16 and bf16 only, not {tensor.format.name}; "
            "write compressed-tensors or gguf instead"
        )

    def notes(self, source: Checkpoint) -> tuple[str, ...]:  # noqa: ARG002 - contract
        """Nothing: engines take the configuration as it is."""
        return ()

    def size(self, source: Checkpoint, outputs: Sequence[OutputTensor]) -> int:  # noqa: ARG002 - contract
        """Exact bytes of the safetensors files."""
        return sum(layout.size for layout in self._layouts(outputs).values())

    def create(
        self,
        path: Path,
        source: Checkpoint,
        outputs: Sequence[OutputTensor],
        *,
        replace: bool = False,
        begun: Staging | None = None,
    ) -> Writer:
        """Begin a folder, or go on with one begun; side files come from the source's folder.

        Raises
        ------
        UsageError
            If the output exists without `replace`, or would touch the source.
        """
        slots = self._slots(outputs)
        config = _plain_config(source.config, outputs)
        layouts = plan_shards(slots, self.shard_bytes)
        with staged(path, begun, replace=replace) as staging:
            return FolderWriter(staging, source, slots, layouts, config)

    def _layouts(self, outputs: Sequence[OutputTensor]) -> Mapping[str, Any]:
        return plan_shards(self._slots(outputs), self.shard_bytes)

    def _slots(self, outputs: Sequence[OutputTensor]) -> list[PlainSlot]:
        for tensor in outputs:
            refusal = self.refusal(tensor)
            if refusal is not None:
                raise UnsupportedError(refusal)
        return [PlainSlot.of(tensor) for tensor in outputs]


def check_quantization(config: Mapping[str, Any]) -> None:
    """Refuse a folder that was quantized in a way that is not read.

    Raises
    ------
    UnsupportedError
        Naming the method, and what is read.
    CheckpointError
        If `quantization_config` is not an object that names a method.
    """
    quantization = config.get("quantization_config", config.get("compression_config"))
    if quantization is None:
        return
    if not isinstance(quantization, Mapping):
        raise CheckpointError("config.json: quantization_config is not an object")
    method = quantization.get("quant_method", "compressed-tensors" if "config_groups" in quantization else None)
    if not isinstance(method, str):
        method = "bitsandbytes" if "load_in_4bit" in quantization or "load_in_8bit" in quantization else "unnamed"
    if method not in _READ_METHODS:
        raise UnsupportedError(
            f"the model is quantized with {method!r}, which is not read yet; "
            f"read are {', '.join(sorted(_READ_METHODS))}, plain safetensors and GGUF: "
            "start from the model's original"
        )
    block = quantization.get("weight_block_size")
    if method == "fp8" and block is not None and block != [128, 128]:
        raise UnsupportedError(f"fp8 blocks of {block} are not read, only of [128, 128]; start from the original")


def _stored(shards: Shards) -> dict[str, StoredTensor]:
    scaled, used = float8_tensors(shards)
    stored: dict[str, StoredTensor] = {}
    for name, file in shards.owners.items():
        if name in scaled:
            stored[name] = scaled[name]
        elif name not in used:
            stored[name] = PlainTensor(plain_spec(name, file), file)
    return stored


def _plain_config(config: Mapping[str, Any], outputs: Sequence[OutputTensor]) -> Mapping[str, Any]:
    """Take over the source's configuration, with what is no longer true of the weights mended."""
    result = dict(config)
    quantization = result.get("quantization_config")
    if isinstance(quantization, Mapping) and quantization.get("quant_method") != "mxfp4":
        # mxfp4 experts are copied as the byte tensors that they are, so only their entry stays true.
        del result["quantization_config"]
    weights = {"f32": 0, "f16": 0, "bf16": 0}
    for tensor in outputs:
        if isinstance(tensor.format, Plain):
            weights[tensor.format.name] += tensor.format.stored_bytes(1, _elements(tensor.shape))
    most = max(weights, key=lambda name: weights[name])
    key = "dtype" if "dtype" in result else "torch_dtype"
    if weights[most] and key in result:
        result[key] = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[most]
    return result


def _elements(shape: tuple[int, ...]) -> int:
    return math.prod(shape)
