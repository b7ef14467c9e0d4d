"""The text a model learns from, books or stories: cleaned, tokenized and split.

The plain-text novels carry prefaces, tables of contents and licence notes that a model of seven million weights should
not spend itself on. What is left here is the prose, one paragraph a line, in plain punctuation.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BEGIN_TOKEN = "<|begin|>"
END_TOKEN = "<|end|>"
BEGIN_ID = 0
END_ID = 1
STORY_END = "<|endoftext|>"
HELD_OUT_FRACTION = 0.015

_PLAIN_PUNCTUATION = str.maketrans(
    {"“": '"', "”": '"', "‘": "'", "’": "'", "\u00a0": " ", "—": "--", "_": None, "|": None}
)
_LICENCE_END = "*END THE SMALL PRINT"
_BOOK_END = re.compile(r"^(the end|finis|end of (the )?project gutenberg.*)\.?$", re.IGNORECASE)
_HEADING = re.compile(r"^(chapter|book|volume|part|stave)\s+([ivxlc]+|\d+|the \w+)\b.{0,90}$", re.IGNORECASE)
_EDITORIAL = re.compile(r"^contents[:.]?$|^\[(illustration|note|project gutenberg).*\]$|^[\s*.]+$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Corpus:
    """The tokenized books.

    Attributes
    ----------
    training : ndarray of uint16, shape (tokens,)
        Every book but its last pages, one after the other.
    held_out : ndarray of uint16, shape (tokens,)
        The last pages of every book.
    held_out_characters : int
        How many characters of text ``held_out`` spells, for bits per character.
    """

    training: np.ndarray
    held_out: np.ndarray
    held_out_characters: int


def read_books(folder: Path) -> dict[str, str]:
    """Read and clean every ``.txt`` file of a folder.

    Parameters
    ----------
    folder : Path
        The folder of plain-text novels.

    Returns
    -------
    dict of str to str
        File stem to prose, paragraphs parted by one blank line.
    """
    books = {path.stem: clean_book(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.txt"))}
    if not books:
        raise FileNotFoundError(f"no .txt file in {folder}")
    return books


def clean_book(text: str) -> str:
    """Keep the prose of one book and write it in plain punctuation.

    Parameters
    ----------
    text : str
        The file as it was published.

    Returns
    -------
    str
        Paragraphs parted by one blank line. Each chapter ends with ``END_TOKEN``.
    """
    if _LICENCE_END in text:
        text = text[text.rindex(_LICENCE_END) :]
    text = text.translate(_PLAIN_PUNCTUATION)
    paragraphs = [" ".join(block.split()) for block in re.split(r"\n\s*\n", text)]
    paragraphs = [paragraph for paragraph in paragraphs if paragraph and not _EDITORIAL.match(paragraph)]
    first = next(index for index, paragraph in enumerate(paragraphs) if _is_prose(paragraph))
    kept: list[str] = []
    for index, paragraph in enumerate(paragraphs[first:], start=first):
        # Some books end twice: the errata and advertisements after "THE END" are no prose.
        if _BOOK_END.match(paragraph) and index > 0.9 * len(paragraphs):
            break
        if _HEADING.match(paragraph) and kept and not kept[-1].endswith(END_TOKEN):
            kept[-1] += END_TOKEN
        kept.append(paragraph)
    return "\n\n".join(kept).replace(END_TOKEN + "\n\n", END_TOKEN) + END_TOKEN


def _is_prose(paragraph: str) -> bool:
    """Tell a paragraph of sentences from a title page or a table of contents."""
    words = re.findall(r"[A-Za-z']+", paragraph)
    lower = sum(word[0].islower() for word in words)
    sentence = paragraph.rstrip("\"' ").endswith((".", "!", "?", ";", ":"))
    published = re.search(r"gutenberg|etext|scanned|produced by", paragraph, re.IGNORECASE) is not None
    return len(paragraph) >= 80 and sentence and not published and lower > 0.7 * len(words)


def read_stories(folder: Path) -> dict[str, str]:
    """Read every ``.txt`` file of a folder as it is; only the marker between two stories becomes ``END_TOKEN``.

    Parameters
    ----------
    folder : Path
        The folder of files with many short stories each, parted by ``STORY_END`` or not parted at all.

    Returns
    -------
    dict of str to str
        File stem to text.
    """
    paths = sorted(path for path in folder.glob("*.txt") if path.name != "SOURCE.txt")
    if not paths:
        raise FileNotFoundError(f"no .txt file in {folder}")
    marker = re.compile(rf"\s*{re.escape(STORY_END)}\s*")
    return {path.stem: marker.sub(END_TOKEN, path.read_text(encoding="utf-8")) for path in paths}


READERS = {"books": read_books, "stories": read_stories}


def train_tokenizer(books: dict[str, str], vocabulary: int) -> Tokenizer:
    """Train the byte-level BPE tokenizer on the books.

    Parameters
    ----------
    books : dict of str to str
        Cleaned texts.
    vocabulary : int
        How many tokens it is to have.

    Returns
    -------
    Tokenizer
        Byte-level BPE, split as GPT-2 splits; ``BEGIN_TOKEN`` goes before every text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BEGIN_TOKEN, END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text.replace(END_TOKEN, "\n\n") for text in books.values()), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN_TOKEN} $A",
        pair=f"{BEGIN_TOKEN} $A {BEGIN_TOKEN} $B",
        special_tokens=[(BEGIN_TOKEN, BEGIN_ID)],
    )
    return tokenizer


def tokenize(books: dict[str, str], tokenizer: Tokenizer) -> Corpus:
    """Tokenize the books and hold out the last pages of each.

    Parameters
    ----------
    books : dict of str to str
        Cleaned books.
    tokenizer : Tokenizer
        As ``train_tokenizer`` made it.

    Returns
    -------
    Corpus
        What to learn from and what to measure on.
    """
    training: list[int] = []
    held_out: list[int] = []
    characters = 0
    for text in books.values():
        split = text.rindex("\n", 0, int(len(text) * (1 - HELD_OUT_FRACTION))) + 1
        training += tokenizer.encode(text[:split], add_special_tokens=False).ids
        held_out += tokenizer.encode(text[split:], add_special_tokens=False).ids
        characters += len(text[split:].replace(END_TOKEN, ""))
    return Corpus(np.array(training, np.uint16), np.array(held_out, np.uint16), characters)
