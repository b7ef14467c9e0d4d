"""The tokenizer of a model that goes from a GGUF file into a folder, which needs it in files of its own."""

from __future__ import annotations

from halfpint.checkpoints.checkpoint import Checkpoint, Writer
from halfpint.checkpoints.folder_writer import FolderWriter
from halfpint.checkpoints.gguf_reader import GgufCheckpoint
from halfpint.tokenization import folder_files, has_tokenizer, load_tokenizer


def add_tokenizer_files(source: Checkpoint, writer: Writer) -> None:
    """Give a folder the tokenizer.json and its companions that no folder of the source could give.

    Nothing is done from folder to folder (side files are copied there), towards GGUF (whose metadata hold the
    tokenizer), and for a GGUF file of weights alone.

    Raises
    ------
    UnsupportedError
        If the file has a tokenizer of a kind that is not known: the folder would be one that nobody can run.
    CheckpointError
        If the file's tokenizer contradicts itself.
    """
    if isinstance(source, GgufCheckpoint) and isinstance(writer, FolderWriter) and has_tokenizer(source):
        for name, data in folder_files(load_tokenizer(source)).items():
            writer.add_file(name, data)
