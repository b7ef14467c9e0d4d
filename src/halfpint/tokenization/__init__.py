"""A tokenizer from any checkpoint: tokenizer.json or GGUF metadata; chat templates, rendered in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.checkpoints.gguf_reader import GgufCheckpoint
from halfpint.checkpoints.latest import Latest, folder_key, signature
from halfpint.checkpoints.tokenizer_files import has_tokenizer_files, read_tokenizer_files
from halfpint.errors import UnsupportedError
from halfpint.tokenization.chat_templates import render_chat, render_chats
from halfpint.tokenization.content_form import Message
from halfpint.tokenization.folder_files import folder_files
from halfpint.tokenization.gguf_vocabulary import spells_tokenizer, tokenizer_from_metadata
from halfpint.tokenization.stream_decoder import StreamDecoder
from halfpint.tokenization.tokenizer import Tokenizer

__all__ = [
    "Message",
    "StreamDecoder",
    "Tokenizer",
    "folder_files",
    "has_tokenizer",
    "load_tokenizer",
    "render_chat",
    "render_chats",
]


# Of a model and of what is made of it.
_LOADED: Latest[Tokenizer] = Latest(2)


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds a tokenizer, be it of a kind that `load_tokenizer` refuses."""
    if isinstance(checkpoint, GgufCheckpoint):
        return spells_tokenizer(checkpoint.metadata)
    return has_tokenizer_files(_folder(checkpoint))


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """Load the tokenizer of an open checkpoint.

    Parameters
    ----------
    checkpoint : Checkpoint
        A GGUF file, or any folder with tokenizer.json in it.

    Returns
    -------
    Tokenizer

    Raises
    ------
    UnsupportedError
        If there is no tokenizer, or one of a kind that is not known.
    CheckpointError
        If it is broken or hostile.
    """
    if isinstance(checkpoint, GgufCheckpoint):
        metadata = checkpoint.metadata
        return _LOADED.get(signature(checkpoint.files[:1]), lambda: tokenizer_from_metadata(metadata))
    folder = _folder(checkpoint)
    return _LOADED.get(folder_key(folder, checkpoint.config), lambda: _of_folder(folder, checkpoint.config))


def _of_folder(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    files = read_tokenizer_files(folder, config)
    if files is None:
        raise UnsupportedError(
            f"{folder} has no tokenizer.json; make one with transformers' "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    return Tokenizer(files.tokenizer, files.special, (), (), files.chat_template, files.notes)


def _folder(checkpoint: Checkpoint) -> Path:
    """Where the files beside the weights are."""
    return checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
