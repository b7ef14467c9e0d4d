"""Text that the model writes itself: what it will be used for looks more like that than like anybody else's text.

Data-free calibration in the manner of LLM-QAT (arXiv 2305.17888): seeded sampling from the model's own distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from halfpint.calibration.text import TextSource, TextTokenizer, Window
from halfpint.engine.continuation import GenerationOptions
from halfpint.engine.decoder import Decoder
from halfpint.engine.generation import Generation
from halfpint.engine.sampling import SamplingOptions
from halfpint.errors import UsageError

SOURCE_NAME = "written by the model"


@dataclass(frozen=True, slots=True, kw_only=True)
class WritingOptions:
    """How much to have written, and how.

    Attributes
    ----------
    windows, tokens_per_window : int
        How many windows, of how many tokens each, the beginning included.
    opening_tokens : int
        So many tokens of a text stand before what is written, after those that the model itself puts in front.
    temperature : float
        1 is the model's own distribution.
    seed : int
        The same seed, the same text.
    """

    windows: int = 8
    tokens_per_window: int = 256
    opening_tokens: int = 0
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.windows < 1 or self.opening_tokens < 0 or self.tokens_per_window <= self.opening_tokens + 1:
            raise UsageError("a model writes at least one window, with room for a token after its opening")


def write_windows(
    decoder: Decoder, tokenizer: TextTokenizer, openings: Sequence[TextSource], options: WritingOptions
) -> list[Window]:
    """Have a model write.

    An end of text does not end a window: as in the text that models are trained on, the next begins after it.

    Parameters
    ----------
    decoder : Decoder
    tokenizer : TextTokenizer
    openings : sequence of TextSource
        Texts that windows begin like, in turn; needed when the model puts nothing in front of a text, of which the
        first token is taken then, or when `opening_tokens` are asked for.
    options : WritingOptions

    Returns
    -------
    list of Window

    Raises
    ------
    UsageError
        If there is nothing to begin with.
    """
    prefix = tokenizer.encode("")
    wanted = max(options.opening_tokens, 0 if prefix else 1)
    if wanted and not openings:
        raise UsageError("this model needs a text to begin with; give openings")
    beginnings = [tokenizer.encode(source.text, add_special=False)[:wanted] for source in openings] if wanted else [[]]
    windows = []
    for number in range(options.windows):
        prompt = [*prefix, *beginnings[number % len(beginnings)]]
        count = options.tokens_per_window - len(prompt)
        sampling = SamplingOptions(temperature=options.temperature, seed=options.seed + number)
        tokens = Generation(decoder, prompt, GenerationOptions(max_tokens=count, sampling=sampling))
        windows.append(Window(SOURCE_NAME, (*prompt, *tokens)))
    return windows
