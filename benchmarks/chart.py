"""A page with scatter charts, one per model: self-contained HTML and SVG, written by hand, with the numbers below."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, HEIGHT = 860, 520
LEFT, RIGHT, TOP, BOTTOM = 74, 20, 24, 56
# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 900px; margin: 2em auto; padding: 0 1em; color: #222;
  background: #fff }
svg { width: 100%; height: auto } svg text { font: 13px system-ui, sans-serif; fill: currentColor }
.grid { stroke: currentColor; stroke-opacity: .13 } .bar { stroke-width: 1.2; stroke-opacity: .55 }
path { fill: none; stroke-width: 1.6 } table { border-collapse: collapse; font-size: 13px }
td, th { padding: 2px 10px; text-align: right } td:first-child, td:nth-child(2) { text-align: left }
code { font-size: 13px; overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #16181c } }
"""


@dataclass(frozen=True)
class Point:
    """One file: its series and name, bits per weight of the whole file, mean KL and its standard error."""

    series: str
    name: str
    bits: float
    divergence: float
    stderr: float


@dataclass(frozen=True)
class _Scale:
    """From numbers to places: bits along a line, KL along its logarithm."""

    bits: tuple[float, float]
    decades: tuple[float, float]

    @classmethod
    def of(cls, points: Sequence[Point]) -> _Scale:
        bits = [point.bits for point in points]
        logarithms = [math.log10(point.divergence) for point in points if point.divergence > 0]
        return cls(
            (math.floor(min(bits) * 2) / 2, math.ceil(max(bits) * 2) / 2),
            (min(logarithms) - 0.1, max(logarithms) + 0.1),
        )

    def x(self, bits: float) -> float:
        low, high = self.bits
        return LEFT + (WIDTH - LEFT - RIGHT) * (bits - low) / max(high - low, 0.5)

    def y(self, divergence: float) -> float:
        low, high = self.decades
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - math.log10(max(divergence, 10**low))) / (high - low)


def svg(points: Sequence[Point], joined: Iterable[str]) -> str:
    """Draw the points; those of a series named in `joined` are joined by a line in the order of their size."""
    scale = _Scale.of(points)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="KL against bits per weight">', _axes(scale)]
    names = list(dict.fromkeys(point.series for point in points))
    for number, series in enumerate(names):
        members = sorted((point for point in points if point.series == series), key=lambda point: point.bits)
        colour = COLOURS[number % len(COLOURS)]
        if series in joined:
            line = " L".join(f"{scale.x(point.bits):.1f} {scale.y(point.divergence):.1f}" for point in members)
            parts.append(f'<path d="M{line}" stroke="{colour}"/>')
        parts += [_mark(point, scale, colour) for point in members]
        y = TOP + 12 + 20 * number
        parts.append(f'<circle cx="{WIDTH - 250}" cy="{y}" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - 238}" y="{y + 4}">{escape(series)}</text>')
    return "\n".join([*parts, "</svg>"])


def _axes(scale: _Scale) -> str:
    parts = []
    steps = round((scale.bits[1] - scale.bits[0]) * 2)
    for step in range(steps + 1):
        bits = scale.bits[0] + step / 2
        x = scale.x(bits)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        if bits == int(bits):
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{bits:g}</text>')
    for exponent in range(math.floor(scale.decades[0]), math.ceil(scale.decades[1])):
        for factor in (1, 2, 5):
            value = factor * 10**exponent
            if scale.decades[0] <= math.log10(value) <= scale.decades[1]:
                y = scale.y(value)
                parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
                parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">bits per weight, whole file</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">mean KL, nats per token</text>'
    )
    return "\n".join(parts)


def _mark(point: Point, scale: _Scale, colour: str) -> str:
    x, y = scale.x(point.bits), scale.y(point.divergence)
    label = f"{point.series} {point.name}: {point.bits:.2f} bits, KL {point.divergence:.5f} ± {point.stderr:.5f}"
    bar = ""
    if math.isfinite(point.stderr):
        top, bottom = scale.y(point.divergence + point.stderr), scale.y(point.divergence - point.stderr)
        bar = f'<line class="bar" stroke="{colour}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'
    return f'{bar}<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(label)}</title></circle>'


def page(
    title: str,
    charts: Mapping[str, Sequence[Point]],
    joined: Sequence[str],
    settings: Sequence[Mapping[str, Any]],
    note: str,
) -> str:
    """Write the whole page: for every model a chart and a table."""
    parts = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>']
    parts.append(f"<style>{_STYLE}</style><h1>{escape(title)}</h1><p>{escape(note)}</p>")
    for setting in settings:
        versions = ", ".join(f"{name} {version}" for name, version in setting["versions"].items())
        parts.append(f"<p>{escape(setting['processor'])}; {escape(versions)}; {escape(setting['date'])}</p>")
        parts.append(f"<p><code>{escape(setting['command'])}</code></p>")
    for model, points in charts.items():
        if points:
            parts += [f"<h2>{escape(model)}</h2>", svg(points, joined), _table(points)]
    return "\n".join([*parts, "</html>\n"])


def _table(points: Sequence[Point]) -> str:
    cells = [
        f"<tr><td>{escape(p.series)}</td><td>{escape(p.name)}</td><td>{p.bits:.3f}</td>"
        f"<td>{p.divergence:.6f}</td><td>{p.stderr:.6f}</td></tr>"
        for p in sorted(points, key=lambda point: point.bits)
    ]
    head = "<tr><th>who</th><th>what</th><th>bits per weight</th><th>mean KL</th><th>standard error</th></tr>"
    return f"<details><summary>the numbers</summary><table>{head}{''.join(cells)}</table></details>"
