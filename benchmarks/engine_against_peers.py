r"""Claim: our engine writes and reads faster than others on the same files.

    python benchmarks/speed_files.py tinyllama-1.1b FOLDER
    python benchmarks/engine_against_peers.py FOLDER/tinyllama-1.1b-*.gguf --pairs 7 --json results.json
    python benchmarks/engine_against_peers.py MODEL.gguf --cases "1 thread" --peer other=/path/to/llama-bench \
        --peer-flags "other=-rtr 1" --peer-flags "other=-fa 0"

Every way to run a peer is tried once for each file and case, and the best in reading and the best in writing stay.
Then our engine and they alternate: in every round each does the same work, and what memory and integer arithmetic give
with the same threads is measured before and after each sample. Engines are processes of their own, pinned to as many
processors as they have threads. Ratios are ours / theirs, pair by pair: above 1 is faster.

On a machine that others use, `--by-processor` counts the processor time of one thread instead of the time that passed.
Arithmetic is then comparable; memory is still shared with whatever else runs, with all engines alike.

Peers: llama.cpp (`make engines`); with `--python-peer` OpenVINO GenAI, transformers and torchao, by the interpreter of
their environment; `--peer` takes any program that speaks as `llama-bench -o json` does. `--original` is the folder that
those that read no GGUF are given, and `--beside` a file of the same model that our own engine runs as a peer of itself.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reporting
import speed_peers
from halfpint.checkpoints import open_checkpoint
from halfpint.engine.cost import TokenCost, token_cost
from halfpint.families import read_config
from halfpint.kernels import _native, machine
from halfpint.kernels.probe import READS, Limits, Probe
from speed_peers import Engine, EngineRefusedError, Offer, Setting, Timing, Work

FORMS = {
    "file": "<26",
    "case": "<13",
    "engine": "<38",
    "prefill tok/s": ">7.1f",
    "spread r": "<13",
    "of peak": ">7.3f",
    "decode tok/s": ">9.2f",
    "spread w": "<13",
    "of memory": ">9.3f",
    "GB/s": ">5.1f",
    "ratio r": ">7.2f",
    "ratio w": ">7.2f",
    "GB": ">5.2f",
}


@dataclass(frozen=True)
class Case:
    """What is asked of all engines."""

    setting: Setting
    work: Work


CASES = {
    "2 threads": Case(Setting(threads=2), Work(512, 128)),
    "1 thread": Case(Setting(threads=1), Work(512, 128)),
    "AVX2": Case(Setting(threads=2, isa="avx2"), Work(512, 128)),
    "batch 4": Case(Setting(threads=2), Work(128, 64, sequences=4)),
    "batch 8": Case(Setting(threads=2), Work(128, 64, sequences=8)),
    "context 2048": Case(Setting(threads=2), Work(2048, 64)),
    "context 8192": Case(Setting(threads=2), Work(8192, 64)),
    "from nothing": Case(Setting(threads=2), Work(1, 128)),
    "7B": Case(Setting(threads=2), Work(512, 32)),
    "short": Case(Setting(threads=1), Work(128, 16)),
    "quick": Case(Setting(threads=2), Work(32, 8)),
}

TRIED = Work(1024, 32)
"""What every way to run a peer is tried with, at most."""


@dataclass(frozen=True)
class Sample:
    """One engine's times, and the limits beside them."""

    timing: Timing
    limits: Limits
    work: Work


class Comparison:
    """Engines that alternate on one file."""

    def __init__(self, case: Case, cost: TokenCost, *, by_processor: bool = False) -> None:
        self.case, self.cost, self.by_processor = case, cost, by_processor
        machine.set_thread_count(case.setting.threads)
        _native.force_isa(case.setting.isa or _native.best_isa())
        self.probe = Probe(int(cost.weight_bytes))
        self.before = self.measure()

    def measure(self) -> Limits:
        """Both limits; of memory, what processor time is worth if that is what counts."""
        found = self.probe.measure()
        if not self.by_processor:
            return found
        begun = time.process_time()
        self.probe.read_bandwidth()
        return Limits(READS * self.probe.nbytes / (time.process_time() - begun), found.integer_peak)

    def warm(self, engine: Engine) -> None:
        """Let an engine do a little of the work before it counts."""
        engine.run(Work(min(self.case.work.prompt, TRIED.prompt), 2, self.case.work.sequences))

    def sample(self, engine: Engine, seed: int, *, most: Work | None = None) -> Sample:
        """One sample between two probes; of no more tokens than `most` says."""
        work = self.case.work
        prompt, tokens = (
            (work.prompt, work.tokens)
            if most is None
            else (
                min(work.prompt, most.prompt),
                min(work.tokens, most.tokens),
            )
        )
        timing = engine.run(Work(prompt, tokens, work.sequences, seed))
        before, self.before = self.before, self.measure()
        limits = Limits(
            (before.read_bandwidth + self.before.read_bandwidth) / 2,
            (before.integer_peak + self.before.integer_peak) / 2,
        )
        return Sample(timing, limits, Work(prompt, tokens, work.sequences))

    def figures(self, sample: Sample) -> dict[str, float]:
        """Speeds and shares of one sample; the tokens of all sequences count, the weights are read once a step."""
        work, timing, limits = sample.work, sample.timing, sample.limits
        prefill, decode = timing.prefill_seconds, timing.decode_seconds
        if self.by_processor:
            if not timing.processor_seconds:
                raise EngineRefusedError("it does not tell its processor time apart")
            prefill, decode = timing.processor_seconds
        operations = work.sequences * self.cost.prompt_operations(work.prompt)
        return {
            "prefill_tokens_per_second": work.sequences * work.prompt / prefill,
            "decode_tokens_per_second": work.sequences * work.tokens / decode,
            "arithmetic_share": operations / prefill / limits.integer_peak,
            "bandwidth_share": work.tokens * self.cost.weight_bytes / decode / limits.read_bandwidth,
            "read_bandwidth": limits.read_bandwidth,
            "integer_peak": limits.integer_peak,
        }


def best_ways(comparison: Comparison, model: Path, offers: Sequence[Offer]) -> list[Offer]:
    """Try every way to run an engine; those that read fastest and that write fastest."""
    if len(offers) == 1:
        return list(offers)
    tried: dict[Offer, dict[str, float]] = {}
    for offer in offers:
        with closing(offer.open(model, comparison.case.setting)) as engine:
            comparison.warm(engine)
            tried[offer] = comparison.figures(comparison.sample(engine, seed=0, most=TRIED))
        speeds = tried[offer]
        print(
            f"  tried {offer.name}: {speeds['prefill_tokens_per_second']:.1f} prefill tok/s, "
            f"{speeds['decode_tokens_per_second']:.2f} decode tok/s",
            flush=True,
        )
    keys = ("prefill_tokens_per_second", "decode_tokens_per_second")
    return list(dict.fromkeys(max(tried, key=lambda offer, key=key: tried[offer][key]) for key in keys))


def enter(stack: ExitStack, comparison: Comparison, model: Path, offer: Offer) -> Engine:
    """Start an engine, to be closed with the stack, and let it do a little of the work first."""
    engine = stack.enter_context(closing(offer.open(model, comparison.case.setting)))
    comparison.warm(engine)
    return engine


def alternate(comparison: Comparison, engines: Sequence[Engine], pairs: int) -> dict[str, list[dict[str, float]]]:
    """Let engines take turns; who begins changes with every round."""
    samples: dict[str, list[dict[str, float]]] = {engine.name: [] for engine in engines}
    for round_number in range(pairs):
        turn = engines if round_number % 2 == 0 else engines[::-1]
        for engine in turn:
            samples[engine.name].append(comparison.figures(comparison.sample(engine, round_number)))
    return samples


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every file and case in turn."""
    for model in arguments.models:
        with closing(open_checkpoint(model)) as checkpoint:
            cost = token_cost(checkpoint, read_config(checkpoint.config))
        for name in arguments.cases:
            case = CASES[name]
            comparison = Comparison(case, cost, by_processor=arguments.by_processor)
            with ExitStack() as stack:
                engines = [enter(stack, comparison, model, speed_peers.ours())]
                for peer_model, offers in contenders(arguments, model, case.setting):
                    try:
                        chosen = best_ways(comparison, peer_model, offers)
                        engines += [enter(stack, comparison, peer_model, offer) for offer in chosen]
                    except EngineRefusedError as error:
                        print(f"  {model.name}, {name}: not measured: {error}", flush=True)
                samples = alternate(comparison, engines, arguments.pairs)
                yield from summary(model.name, name, engines, samples)


def contenders(arguments: argparse.Namespace, model: Path, setting: Setting) -> Iterator[tuple[Path, Sequence[Offer]]]:
    """Peers, each with the model that it is given; those that are not there are named."""
    if "llama.cpp" not in arguments.without:
        try:
            yield model, speed_peers.llama_cpp(setting)
        except EngineRefusedError as error:
            print(f"  llama.cpp: not measured: {error}", flush=True)
    for name, program in arguments.peer:
        flags = [words.split() for of, words in arguments.peer_flags if of == name] or [[]]
        yield model, [speed_peers.binary(name, Path(program), each) for each in flags]
    for name, python in arguments.python_peer:
        given = model if name == "openvino" else arguments.original
        if given is None:
            print(f"  {name}: not measured: it needs --original", flush=True)
            continue
        try:
            for offer in speed_peers.python_peer(name, Path(python)):
                yield given, [offer]
        except EngineRefusedError as error:
            print(f"  {name}: not measured: {error}", flush=True)
    if arguments.beside is not None:
        yield arguments.beside, [Offer("halfpint", arguments.beside.stem, speed_peers.ours().start)]


def summary(
    model: str, case: str, engines: Sequence[Engine], samples: dict[str, list[dict[str, float]]]
) -> Iterator[dict[str, Any]]:
    """A row for each engine; for the peers with the ratios of the pairs."""
    mine = samples[engines[0].name]
    for engine in engines:
        taken = samples[engine.name]
        row: dict[str, Any] = {"file": model, "case": case, "engine": engine.name, "version": engine.version}
        for short, key, share in (
            ("r", "prefill_tokens_per_second", "arithmetic_share"),
            ("w", "decode_tokens_per_second", "bandwidth_share"),
        ):
            speeds = [figures[key] for figures in taken]
            row["prefill tok/s" if short == "r" else "decode tok/s"] = statistics.median(speeds)
            row[f"spread {short}"] = f"[{min(speeds):.4g}..{max(speeds):.4g}]"
            row["of peak" if short == "r" else "of memory"] = statistics.median(figures[share] for figures in taken)
            if engine is not engines[0]:
                ratios = [ours[key] / theirs[key] for ours, theirs in zip(mine, taken, strict=True)]
                row[f"ratio {short}"] = statistics.median(ratios)
                row[f"ratios {short}"] = ratios
        row["GB/s"] = statistics.median(figures["read_bandwidth"] for figures in taken) / 1e9
        row["GB"] = engine.peak_bytes / 1e9
        yield row | {"samples": taken}


def markdown(measured: Sequence[dict[str, Any]]) -> str:
    """The rows as a table for a page."""
    heads = {
        "file": "file",
        "case": "case",
        "engine": "engine",
        "prefill tok/s": "prefill tok/s",
        "of peak": "of the integer peak",
        "decode tok/s": "decode tok/s",
        "of memory": "of the bandwidth",
        "GB/s": "bandwidth beside it, GB/s",
        "ratio r": "ours / it, reading",
        "ratio w": "ours / it, writing",
        "GB": "peak memory, GB",
    }
    lines = ["| " + " | ".join(heads.values()) + " |", "|" + " --- |" * len(heads)]
    for row in measured:
        cells = []
        for key in heads:
            value = row.get(key)
            cells.append(format(value, ".3g") if isinstance(value, float) else "" if value is None else str(value))
            if key in ("prefill tok/s", "decode tok/s"):
                cells[-1] += f" {row['spread r' if key == 'prefill tok/s' else 'spread w']}"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def pair(text: str) -> tuple[str, str]:
    """Read NAME=VALUE."""
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="GGUF files")
    parser.add_argument("--cases", nargs="+", default=["2 threads"], choices=CASES, metavar="CASE", help=str([*CASES]))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--peer", action="append", default=[], type=pair, metavar="NAME=PROGRAM")
    parser.add_argument("--peer-flags", action="append", default=[], type=pair, metavar="NAME=FLAGS")
    parser.add_argument("--python-peer", action="append", default=[], type=pair, metavar="NAME=PYTHON")
    parser.add_argument("--without", nargs="*", default=(), choices=["llama.cpp"])
    parser.add_argument("--original", type=Path, help="the folder in the layout of Hugging Face")
    parser.add_argument("--beside", type=Path, help="another file of the model, for our own engine")
    parser.add_argument(
        "--by-processor", action="store_true", help="count processor time, for one thread on a busy machine"
    )
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--markdown", type=Path, help="where the table goes")
    arguments = parser.parse_args()
    if arguments.by_processor and any(CASES[name].setting.threads > 1 for name in arguments.cases):
        parser.error("--by-processor is for cases of one thread: threads that wait spend processor time too")
    reporting.print_setting()
    print(reporting.heading(FORMS))
    measured: list[dict[str, Any]] = []
    for row in rows(arguments):
        measured.append(row)
        print(reporting.line(row, FORMS), flush=True)
        reporting.save(arguments.json, measured)
        if arguments.markdown is not None:
            arguments.markdown.write_text(markdown(measured), encoding="utf-8")


if __name__ == "__main__":
    main()
