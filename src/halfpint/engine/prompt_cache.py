"""Keys and values of a text's beginning, in a file: what was read once need not be read again.

The file: the magic; the length of the header, 8 bytes, little endian; the header, JSON; the pages of every layer
(native/isa/attention.hpp), one layer after the other. The header says which model and which tokens they belong to, how
they are kept, and a checksum of the pages; its sizes must add up to the file's before anything is read.

What follows goes on as after any other way of reading the prompt in pieces: with exact products the same bits; with
integer ones scores differ by the rounding of products, because those with many tokens round more than those with few.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from halfpint.engine.cache import Cache
from halfpint.errors import CheckpointError, UsageError
from halfpint.families import ModelConfig

_MAGIC = b"HPKVCA02"
_MOST_HEADER_BYTES = 1 << 24
_MOST_TOKENS = 1 << 20
_NUMBERS = ("layers", "kv_heads", "head_dim", "text_length", "checksum")


@dataclass(frozen=True, slots=True)
class PromptCache:
    """A file for the beginning of texts of one model.

    Attributes
    ----------
    path : Path
        It need not be there yet.
    model : str
        Tells the model's weights from all others, such as a hash.
    """

    path: Path
    model: str

    def check(self) -> None:
        """See, before the work, that the file is this model's, or can be made.

        Raises
        ------
        UsageError
            If the file belongs to another model, or cannot be written.
        CheckpointError
            If it is no such file, or damaged.
        """
        folder = self.path.absolute().parent
        if self.path.is_dir() or not folder.is_dir():
            raise UsageError(f"--prompt-cache {self.path}: name a file in a folder that exists")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(f"--prompt-cache {self.path}: the folder {folder} cannot be written to")
        if self.path.exists():
            with self._open() as file:
                self._check_model(self._header(file))

    def load(self, config: ModelConfig, kind: str, ids: Sequence[int], limit: int = 0) -> Cache:
        """Give a cache with as much of a text as the file holds.

        Parameters
        ----------
        config : ModelConfig
        kind : str
            How keys and values are to be kept.
        ids : sequence of int
            The text. Its last token is never taken from the file, because its scores are not there.
        limit : int, optional
            As for `Cache`.

        Returns
        -------
        Cache
            Empty when there is no file, or its text begins otherwise.

        Raises
        ------
        UsageError
            If the file belongs to another model, keeps keys and values otherwise, or has no folder to be in.
        CheckpointError
            If it is no such file, or damaged.
        """
        cache = Cache(config, limit, kind)
        if not self.path.absolute().parent.is_dir():
            raise UsageError(f"--prompt-cache {self.path}: name a file in a folder that exists")
        try:
            file = self._open()
        except FileNotFoundError:
            return cache
        with file:
            header = self._header(file)
            self._check(header, cache)
            tokens: list[int] = header["tokens"]
            shared = _shared(tokens, ids[:-1])
            if shared > 0 and len(tokens) <= cache.limit:
                self._restore(file, header, cache)
                cache.ids[:] = tokens
                cache.text_length = header["text_length"]
                cache.truncate(shared)
        return cache

    def save(self, cache: Cache, ids: Sequence[int]) -> None:
        """Write what a cache holds of a text; the file appears whole, or not at all.

        Parameters
        ----------
        cache : Cache
        ids : sequence of int
            The tokens it holds.

        Raises
        ------
        UsageError
            If the file cannot be written there.
        """
        assert len(ids) == cache.length
        pages = [layer.save() for layer in cache.layers]
        header = {
            "model": self.model,
            **_sizes(cache),
            "tokens": [int(token) for token in ids],
            "text_length": cache.text_length,
            "checksum": _checksum(pages),
        }
        text = json.dumps(header).encode()
        try:
            handle, aside = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.absolute().parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(_MAGIC + len(text).to_bytes(8, "little") + text)
                    for page in pages:
                        file.write(page.data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(aside).replace(self.path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    Path(aside).unlink()
                raise
        except OSError as error:
            raise UsageError(f"--prompt-cache {self.path}: {error.strerror or error}") from error

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise CheckpointError(f"{self.path}: {error.strerror or error}") from error

    def _header(self, file: BinaryIO) -> dict[str, Any]:
        """The header, with the types that it promises."""
        size = os.fstat(file.fileno()).st_size
        start = file.read(16)
        length = int.from_bytes(start[8:], "little")
        if start[:8] != _MAGIC or len(start) < 16:
            raise CheckpointError(f"{self.path}: not a prompt cache; choose another file, or delete it")
        if length > min(_MOST_HEADER_BYTES, size - 16):
            raise self._damaged("its header does not fit")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise self._damaged("its header is no JSON") from error
        words = isinstance(header, dict) and all(isinstance(header.get(key), str) for key in ("model", "kind"))
        numbers = words and all(type(header.get(key)) is int and header[key] >= 0 for key in _NUMBERS)
        tokens = header.get("tokens") if numbers else None
        if (
            not isinstance(tokens, list)
            or len(tokens) > _MOST_TOKENS
            or not all(type(token) is int for token in tokens)
        ):
            raise self._damaged("its header lacks something")
        found: dict[str, Any] = header
        return found

    def _check_model(self, header: dict[str, Any]) -> None:
        if header["model"] != self.model:
            raise UsageError(f"{self.path}: made with another model; choose another file, or delete it")

    def _check(self, header: dict[str, Any], cache: Cache) -> None:
        self._check_model(header)
        for key, value in _sizes(cache).items():
            if header[key] != value:
                raise UsageError(
                    f"{self.path}: made with {key} {header[key]!r}, not {value!r}; choose another file, or delete it"
                )

    def _restore(self, file: BinaryIO, header: dict[str, Any], cache: Cache) -> None:
        count = len(header["tokens"])
        sizes = [layer.stored_bytes(count) for layer in cache.layers]
        if os.fstat(file.fileno()).st_size - file.tell() != sum(sizes):
            raise self._damaged("it does not have the bytes that its header tells of")
        checksum = 0
        for layer, size in zip(cache.layers, sizes, strict=True):
            pages = np.fromfile(file, np.uint8, size)
            if pages.size != size:
                raise self._damaged("it ends too early")
            checksum = zlib.crc32(pages.data, checksum)
            layer.restore(pages, count)
        if checksum != header["checksum"]:
            raise self._damaged("its checksum differs")

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: this prompt cache is damaged, {what}; delete it")


def _sizes(cache: Cache) -> dict[str, str | int]:
    layer = cache.layers[0]
    return {
        "kind": cache.kind,
        "layers": len(cache.layers),
        "kv_heads": layer.kv_heads,
        "head_dim": layer.head_dim,
    }


def _checksum(pages: Sequence[np.ndarray]) -> int:
    checksum = 0
    for page in pages:
        checksum = zlib.crc32(page.data, checksum)
    return checksum


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the beginning that two texts share."""
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count
