"""Whether two models cut text alike: figures of measuring are on the reference's tokens and do not show it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from halfpint.calibration.text import Window
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.errors import HalfpintError
from halfpint.tokenization import Tokenizer, load_tokenizer

_MOST_ADDED = 512
"""Added tokens that are tried; Gemma 3 has 6,242, most of them reserved."""

_AROUND = ("{}", " {} ", "a{}b", "a {} b", "\n{}\n", "{}{}")
"""What may stand around an added token, which may take the spaces beside it or not."""


def tokenizer_differences(candidate: Checkpoint, reference: Checkpoint, windows: Sequence[Window]) -> tuple[str, ...]:
    """Compare the tokenizers of two models on the text that was measured and on the reference's added tokens.

    Parameters
    ----------
    candidate, reference : Checkpoint
    windows : sequence of Window
        In tokens of the reference.

    Returns
    -------
    tuple of str
        A note for each kind of difference; empty when they agree.
    """
    try:
        ours = load_tokenizer(candidate)
    except HalfpintError as error:
        return (f"the model's own tokenizer cannot be loaded, so only the original's was used: {error}",)
    theirs = load_tokenizer(reference)
    notes = []
    for kind, texts in (("texts measured on", _texts(theirs, windows)), ("lines with added tokens", _added(theirs))):
        differing = [text for text in dict.fromkeys(texts) if ours.encode(text) != theirs.encode(text)]
        if differing:
            notes.append(_difference(ours, theirs, kind, differing))
    if ours.chat_template != theirs.chat_template:
        notes.append("the chat template is another than the original's")
    if set(ours.eos_ids) != set(theirs.eos_ids):
        notes.append(f"it stops at tokens {_sorted(ours.eos_ids)}, the original at {_sorted(theirs.eos_ids)}")
    return tuple(notes)


def _texts(tokenizer: Tokenizer, windows: Sequence[Window]) -> Iterator[str]:
    yield from ("", *(tokenizer.decode(window.token_ids) for window in windows))


def _added(tokenizer: Tokenizer) -> Iterator[str]:
    for token in list(tokenizer.model.get_added_tokens_decoder().values())[:_MOST_ADDED]:
        for around in _AROUND:
            yield around.replace("{}", token.content)


def _difference(ours: Tokenizer, theirs: Tokenizer, kind: str, texts: Sequence[str]) -> str:
    shortest = min(texts, key=len)
    pair = [tokenizer.encode(shortest) for tokenizer in (ours, theirs)]
    same = next((i for i, (own, other) in enumerate(zip(*pair, strict=False)) if own != other), min(map(len, pair)))
    own, other = (_sample(tokenizer, ids[same:]) for tokenizer, ids in zip((ours, theirs), pair, strict=True))
    return (
        f"the tokenizers disagree on {len(texts)} of the {kind}; at token {same} of {shortest[:60]!r}, this one has "
        f"{own}, the original {other}: the figures are on the original's tokens, and the model will read others"
    )


def _sample(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return " ".join(repr(tokenizer.model.id_to_token(token)) for token in ids[:3]) or "no more"


def _sorted(ids: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(ids))) or "none"
