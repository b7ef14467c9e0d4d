"""How to run a model and choose its tokens: options that `generate` and `chat` share."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import click

from halfpint.cli.common_options import Command, Number, together
from halfpint.engine.sampling import LEAST_PENALTY, MOST_PENALTY
from halfpint.kernels.integer_linear import FEW_TOKENS
from halfpint.kernels.key_values import CACHE_KINDS
from halfpint.pipeline.options import GenerateOptions

_DEFAULTS = GenerateOptions()


class Sampling(TypedDict):
    """What `sampling` gives to a command."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int
    kv_cache: str
    draft: int


def sampling(function: Command) -> Command:  # long: one decorator per option
    """Options of sampling, with the defaults of `GenerateOptions`."""
    return together(
        click.option(
            "--max-tokens",
            type=click.IntRange(min=1),
            default=_DEFAULTS.max_tokens,
            show_default=True,
            metavar="N",
            help="Most new tokens.",
        ),
        click.option(
            "--temperature",
            type=Number(min=0),
            default=_DEFAULTS.temperature,
            show_default=True,
            metavar="X",
            help="How far from the likeliest token; 0 always takes it.",
        ),
        click.option(
            "--top-k",
            type=click.IntRange(min=0),
            default=_DEFAULTS.top_k,
            show_default=True,
            metavar="N",
            help="Choose among so many likeliest tokens; 0 for all.",
        ),
        click.option(
            "--top-p",
            type=Number(0, 1, min_open=True),
            default=_DEFAULTS.top_p,
            show_default=True,
            metavar="X",
            help="Choose among the likeliest tokens that hold so much of the probability.",
        ),
        click.option(
            "--min-p",
            type=Number(0, 1),
            default=_DEFAULTS.min_p,
            show_default=True,
            metavar="X",
            help="Leave out tokens less likely than this fraction of the likeliest.",
        ),
        click.option(
            "--repetition-penalty",
            type=Number(LEAST_PENALTY, MOST_PENALTY),
            default=_DEFAULTS.repetition_penalty,
            show_default=True,
            metavar="X",
            help="Above 1, tokens that were there already become less likely.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(min=0),
            default=_DEFAULTS.seed,
            show_default=True,
            metavar="N",
            help="The same seed gives the same text.",
        ),
        click.option(
            "--kv-cache",
            type=click.Choice(list(CACHE_KINDS)),
            default=_DEFAULTS.kv_cache,
            show_default=True,
            help="How keys and values of the text are kept: q8 takes half of the memory of f16.",
        ),
        click.option(
            "--draft",
            type=click.IntRange(min=0, max=FEW_TOKENS - 1),
            default=_DEFAULTS.draft,
            show_default=True,
            metavar="N",
            help="Guess up to N tokens from the text so far and check them at once; the text stays the same.",
        ),
    )(function)


def generate_options(chosen: Sampling, prompt_cache: Path | None = None) -> GenerateOptions:
    """Put what `sampling` gave into one record."""
    return GenerateOptions(
        max_tokens=chosen["max_tokens"],
        temperature=chosen["temperature"],
        top_k=chosen["top_k"],
        top_p=chosen["top_p"],
        min_p=chosen["min_p"],
        repetition_penalty=chosen["repetition_penalty"],
        seed=chosen["seed"],
        kv_cache=chosen["kv_cache"],
        draft=chosen["draft"],
        prompt_cache=prompt_cache,
    )
