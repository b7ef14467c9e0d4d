r"""Train the demo model on a folder of public-domain novels, on a CPU, in a given number of minutes.

    python demo/train.py BOOKS_FOLDER RUN_FOLDER --minutes 85

Everything that changes during training follows the fraction of the minutes that has passed, not the number of steps:
the run ends on time and fully cooled down on a slow or busy machine too. A stopped run goes on from its last
checkpoint when the same command is given again.

Another text and another shape make another model, such as the one that the benchmarks measure next to the demo:

    python demo/train.py STORIES_FOLDER RUN_FOLDER --text stories --minutes 50 \
        --shape vocabulary=1024 layers=5 heads=4 key_value_heads=4 intermediate=1024 tied=false
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from corpus import BEGIN_ID, READERS, Corpus, tokenize, train_tokenizer
from model import Llama, LlamaShape, next_token_loss
from muon import Muon

CHECKPOINT_NAME = "checkpoint.pt"
TOKENIZER_NAME = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the model is trained. Fractions are of the whole time."""

    seed: int = 7
    sequences_per_step: int = 16
    short_length: int = 256
    long_length: int = 512
    lengthen_at_fraction: float = 0.6
    warmup_fraction: float = 0.01
    cooldown_fraction: float = 0.5
    muon_rate: float = 0.006
    adam_rate: float = 0.003
    weight_decay: float = 0.1
    gradient_norm: float = 1.0
    average_memory: float = 0.99


@dataclass(slots=True)
class Progress:
    """Where a run stands."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    epoch: int = 0
    held_out_loss: float = math.nan


def rate_scale(fraction: float, recipe: Recipe) -> float:
    """Learning rate, as a part of its peak: a short rise, a level stretch, a straight fall to nothing."""
    rise = min(1.0, (fraction + 1e-3) / recipe.warmup_fraction)
    fall = min(1.0, max(0.0, 1.0 - fraction) / recipe.cooldown_fraction)
    return min(rise, fall)


def epoch_batches(tokens: np.ndarray, length: int, epoch: int, recipe: Recipe) -> Iterator[Tensor]:
    """Cut the text into sequences at a new phase and deal them in a new order.

    Every sequence begins with the begin token, as every text does when the model is used.

    Yields
    ------
    Tensor of int64, shape (sequences_per_step, length + 1)
    """
    random = np.random.default_rng([recipe.seed, epoch])
    starts = np.arange(random.integers(length), len(tokens) - length, length)
    random.shuffle(starts)
    for first in range(0, len(starts) - recipe.sequences_per_step + 1, recipe.sequences_per_step):
        yield sequences_at(tokens, starts[first : first + recipe.sequences_per_step], length)


def sequences_at(tokens: np.ndarray, starts: np.ndarray, length: int) -> Tensor:
    """Join the begin token and ``length`` tokens from each start: (starts, length + 1)."""
    rows = [np.concatenate([[BEGIN_ID], tokens[start : start + length]]) for start in starts]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


@torch.no_grad()
def held_out_loss(model: Llama, tokens: np.ndarray, length: int, sequences: int | None = None) -> float:
    """Mean loss in nats per token on the held-out pages, or on evenly spread sequences of them."""
    starts = np.arange(0, len(tokens) - length + 1, length)
    if sequences is not None:
        starts = starts[np.linspace(0, len(starts) - 1, sequences).astype(int)]
    losses = [
        next_token_loss(model, sequences_at(tokens, chunk, length)).item() * len(chunk)
        for chunk in np.array_split(starts, math.ceil(len(starts) / 8))
    ]
    return sum(losses) / len(starts)


class Run:
    """One training run: the model, its running average, its optimizers and where it stands."""

    def __init__(self, recipe: Recipe, shape: LlamaShape, folder: Path) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.shape = shape
        self.folder = folder
        self.progress = Progress()
        self.model = Llama(shape)
        self.forward: torch.nn.Module = self.model
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        matrices = [weight for weight in self.model.model.layers.parameters() if weight.ndim == 2]
        embeddings = [self.model.model.embed_tokens.weight]
        if not shape.tied:
            embeddings.append(self.model.output_weight)
        norms = [weight for weight in self.model.parameters() if weight.ndim == 1]
        self.muon = Muon(matrices, lr=recipe.muon_rate, weight_decay=recipe.weight_decay)
        self.adam = torch.optim.AdamW(
            [
                {"params": embeddings, "weight_decay": recipe.weight_decay},
                {"params": norms, "weight_decay": 0.0},
            ],
            lr=recipe.adam_rate,
            betas=(0.9, 0.95),
        )

    def compile(self) -> None:
        """Let PyTorch fuse the small operations; the weights stay those of ``model``."""
        self.forward = torch.compile(self.model, dynamic=False)  # type: ignore[assignment]

    def save(self) -> None:
        """Write the checkpoint aside, then put it in place: a stopped write leaves the last one whole."""
        aside = self.folder / (CHECKPOINT_NAME + ".partial")
        state: dict[str, Any] = {
            name: getattr(self, name).state_dict() for name in ("model", "average", "muon", "adam")
        }
        torch.save({**state, **self._records()}, aside)
        aside.replace(self.folder / CHECKPOINT_NAME)

    def _records(self) -> dict[str, Any]:
        """What was asked for and where the run stands, as plain numbers."""
        return {name: asdict(getattr(self, name)) for name in ("progress", "recipe", "shape")}

    def resume(self) -> None:
        """Take up the checkpoint of this folder, if there is one."""
        path = self.folder / CHECKPOINT_NAME
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        for name in ("model", "average", "muon", "adam"):
            getattr(self, name).load_state_dict(state[name])
        self.progress = Progress(**state["progress"])

    def step(self, sequences: Tensor, fraction: float) -> float:
        """Learn from one batch and return its loss."""
        scale = rate_scale(fraction, self.recipe)
        for optimizer, peak in ((self.muon, self.recipe.muon_rate), (self.adam, self.recipe.adam_rate)):
            for group in optimizer.param_groups:
                group["lr"] = peak * scale
        loss = next_token_loss(self.forward, sequences)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_norm)
        self.muon.step()
        self.adam.step()
        self.model.zero_grad(set_to_none=True)
        self._update_average()
        self.progress.step += 1
        self.progress.tokens += sequences[:, 1:].numel()
        return loss.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        """Pull the running average towards the weights; young averages forget the random start quickly."""
        memory = min(self.recipe.average_memory, self.progress.step / (self.progress.step + 10))
        for mean, weight in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(weight, 1 - memory)


def prepare(text_folder: Path, kind: str, run_folder: Path, vocabulary: int) -> Corpus:
    """Clean and tokenize the text; train the tokenizer on the first call."""
    run_folder.mkdir(parents=True, exist_ok=True)
    texts = READERS[kind](text_folder)
    path = run_folder / TOKENIZER_NAME
    if not path.exists():
        train_tokenizer(texts, vocabulary).save(str(path))
    return tokenize(texts, Tokenizer.from_file(str(path)))


def read_shape(words: list[str]) -> LlamaShape:
    """Change fields of the demo's shape: ``["layers=5", "tied=false"]`` -> a shape."""
    kinds = {field.name: field.type for field in fields(LlamaShape)}
    changes: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in kinds or not value:
            raise SystemExit(f"--shape {word}: write FIELD=VALUE with FIELD one of {', '.join(kinds)}")
        changes[name] = json.loads(value)
        if type(changes[name]) is not kinds[name]:
            raise SystemExit(f"--shape {word}: {name} takes a value of kind {kinds[name].__name__}")
    return LlamaShape(**changes)


def train(run: Run, corpus: Corpus, seconds_total: float) -> None:
    """Train until the time is used up, logging every minute and saving every five."""
    progress, recipe = run.progress, run.recipe
    started = time.monotonic() - progress.seconds
    next_log, next_save = progress.seconds + 20, progress.seconds + 300
    length, losses = 0, list[float]()
    batches: Iterator[Tensor] = iter(())
    while progress.seconds < seconds_total:
        fraction = progress.seconds / seconds_total
        wanted = recipe.long_length if fraction >= recipe.lengthen_at_fraction else recipe.short_length
        sequences = next(batches, None) if wanted == length else None
        if sequences is None:
            length, progress.epoch = wanted, progress.epoch + 1
            batches = epoch_batches(corpus.training, length, progress.epoch, recipe)
            sequences = next(batches)
        losses.append(run.step(sequences, fraction))
        progress.seconds = time.monotonic() - started
        if progress.seconds >= next_log:
            progress.held_out_loss = held_out_loss(run.average, corpus.held_out, recipe.long_length, sequences=16)
            write_log(run, losses, seconds_total)
            losses.clear()
            next_log = progress.seconds + 60
        if progress.seconds >= next_save:
            run.save()
            next_save = progress.seconds + 300
    progress.held_out_loss = held_out_loss(run.average, corpus.held_out, recipe.long_length)
    write_log(run, losses or [math.nan], seconds_total)
    run.save()


def write_log(run: Run, losses: list[float], seconds_total: float) -> None:
    """Add one line to the log."""
    progress = run.progress
    line = (
        f"minute {progress.seconds / 60:5.1f} of {seconds_total / 60:.0f}  step {progress.step:5d}  "
        f"epoch {progress.epoch:2d}  tokens {progress.tokens / 1e6:6.2f} M  "
        f"tokens/s {progress.tokens / progress.seconds:6.0f}  "
        f"train loss {sum(losses) / len(losses):.4f}  held-out loss {progress.held_out_loss:.4f}"
    )
    with (run.folder / "train.log").open("a", encoding="utf-8") as log:
        log.write(line + "\n")
    print(line, flush=True)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text_folder", type=Path, help="folder of plain-text novels, or of stories")
    parser.add_argument("run_folder", type=Path, help="where checkpoints and the log go")
    parser.add_argument("--minutes", type=float, default=85.0, help="wall-clock time to train for")
    parser.add_argument("--text", choices=sorted(READERS), default="books", help="what the text folder holds")
    parser.add_argument("--shape", nargs="*", default=[], metavar="FIELD=VALUE", help="fields unlike the demo's")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch threads")
    parser.add_argument("--compile", action="store_true", help="fuse operations (needs a C++ compiler; a sixth faster)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shape = read_shape(arguments.shape)
    corpus = prepare(arguments.text_folder, arguments.text, arguments.run_folder, shape.vocabulary)
    run = Run(Recipe(), shape, arguments.run_folder)
    run.resume()
    if arguments.compile:
        run.compile()
    if run.progress.step == 0:
        run.save()
    print(f"{len(corpus.training)} training tokens, {len(corpus.held_out)} held out")
    train(run, corpus, arguments.minutes * 60)


if __name__ == "__main__":
    main()
