"""Claim: the interval mean KL ± 1.96 standard errors holds the value from ten times as much text, nine times in ten.

    python benchmarks/interval_coverage.py demo demo-q4_k.gguf --text NOVEL.txt WIKI.txt --json results.json

All text is scored once, window by window. Then, for several lengths and two ways of choosing, fifty samples are drawn
from a stretch ten times as long, wherever it begins, and it is counted how often a sample's interval holds the mean of
its whole stretch. `scattered`: windows at random from the stretch. `contiguous`: one run of neighbouring windows, as
`halfpint measure` reads a text from its beginning; neighbours speak of the same things, so this is the harder test.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import reporting
from halfpint.measuring.metrics import clustered_mean
from scoring import Score, Yardstick

SAMPLE_WINDOWS = (4, 8, 16, 32)
MORE = 10
FORMS = {
    "metric": "<10",
    "way": "<10",
    "windows": ">7d",
    "tokens": ">7d",
    "draws": ">5d",
    "held": ">5d",
    "coverage": ">8.1%",
    "width": ">9.2%",
}


@dataclass(frozen=True)
class Scored:
    """Scores of consecutive windows of one text.

    Attributes
    ----------
    values : float64 [windows, tokens]
    """

    source: str
    values: NDArray[np.float64]


def by_window(values: NDArray[np.float64], score: Score, sources: list[str]) -> list[Scored]:
    """Put per-token values into windows, texts apart; windows shorter than the first are left out."""
    length = int((score.windows == 0).sum())
    rows: dict[str, list[NDArray[np.float64]]] = {}
    for number, source in enumerate(sources):
        row = values[score.windows == number]
        if len(row) == length:
            rows.setdefault(source, []).append(row)
    return [Scored(source, np.stack(members)) for source, members in rows.items()]


def sample(stretch: NDArray[np.float64], count: int, way: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """Choose windows of a stretch, [windows, tokens]."""
    if way == "scattered":
        return stretch[np.sort(rng.choice(len(stretch), count, replace=False))]
    start = int(rng.integers(len(stretch) - count + 1))
    return stretch[start : start + count]


def rows(metric: str, texts: list[Scored], draws: int, seed: int) -> Iterator[dict[str, Any]]:
    """Coverage of one metric, for every way and length that the texts allow."""
    rng = np.random.default_rng(seed)
    for way in ("scattered", "contiguous"):
        for count in SAMPLE_WINDOWS:
            long_enough = [text for text in texts if len(text.values) >= MORE * count]
            if not long_enough:
                continue
            held, widths = 0, []
            for draw in range(draws):
                text = long_enough[draw % len(long_enough)].values
                start = int(rng.integers(len(text) - MORE * count + 1))
                stretch = text[start : start + MORE * count]
                chosen = sample(stretch, count, way, rng)
                numbers = np.repeat(np.arange(count), chosen.shape[1])
                estimate = clustered_mean(chosen.reshape(-1), numbers)
                held += abs(estimate.mean - float(stretch.mean())) <= 1.96 * estimate.stderr
                widths.append(1.96 * estimate.stderr / abs(estimate.mean))
            yield {
                "metric": metric,
                "way": way,
                "windows": count,
                "tokens": count * texts[0].values.shape[1],
                "draws": draws,
                "held": int(held),
                "coverage": held / draws,
                "width": float(np.median(widths)),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("candidate", type=Path)
    parser.add_argument("--text", nargs="+", required=True, type=Path, help="long texts that neither has seen")
    parser.add_argument("--tokens", type=int, default=150_000)
    parser.add_argument("--window-tokens", type=int, default=512)
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scores", type=Path, help="where the scores are kept, or found from an earlier run (.npz)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    reporting.print_setting()
    metrics = scores(arguments)
    print(reporting.heading(FORMS))
    measured = []
    for metric, texts in metrics.items():
        for row in rows(metric, texts, arguments.draws, arguments.seed):
            measured.append(row)
            print(reporting.line(row, FORMS), flush=True)
    reporting.save(arguments.json, measured)
    if not measured:
        raise SystemExit(
            f"no text has {MORE * SAMPLE_WINDOWS[0]} windows: give longer text, or smaller --window-tokens"
        )


def scores(arguments: argparse.Namespace) -> dict[str, list[Scored]]:
    """Score all text, or take what an earlier run has kept."""
    if arguments.scores is not None and arguments.scores.exists():
        kept = np.load(arguments.scores)
        metrics: dict[str, list[Scored]] = {}
        for name in kept.files:
            metric, _, source = name.partition(" ")
            metrics.setdefault(metric, []).append(Scored(source, kept[name]))
        return metrics
    yardstick = Yardstick(arguments.model, arguments.text, arguments.tokens, arguments.window_tokens)
    score = yardstick.score(arguments.candidate)
    sources = [window.source for window in yardstick.windows]
    metrics = {
        "KL": by_window(score.kl, score, sources),
        "agreement": by_window(score.agrees.astype(np.float64), score, sources),
        "loss": by_window(score.loss_difference, score, sources),
    }
    if arguments.scores is not None:
        arrays = {f"{metric} {text.source}": text.values for metric, texts in metrics.items() for text in texts}
        np.savez(arguments.scores, **arrays)
    return metrics


if __name__ == "__main__":
    main()
