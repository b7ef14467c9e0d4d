"""A tokenizer from any checkpoint: tokenizer.json or GGUF metadata; chat templates, rendered in a sandbox."""

from __future__ import annotations

from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.checkpoints.gguf_reader import GgufCheckpoint
from halfpint.checkpoints.tokenizer_files import read_tokenizer_files
from halfpint.errors import UnsupportedError
from halfpint.tokenization.chat import render_chat, render_chats
from halfpint.tokenization.folder_files import folder_files
from halfpint.tokenization.gguf_vocabulary import tokenizer_from_metadata
from halfpint.tokenization.tokenizer import Message, StreamDecoder, Tokenizer

__all__ = ["Message", "StreamDecoder", "Tokenizer", "folder_files", "load_tokenizer", "render_chat", "render_chats"]


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
        return tokenizer_from_metadata(checkpoint.metadata)
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    files = read_tokenizer_files(folder, checkpoint.config)
    if files is None:
        raise UnsupportedError(
            f"{folder} has no tokenizer.json; make one with transformers' "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    return Tokenizer(files.tokenizer, files.special, (), (), files.chat_template)
