"""Our own engine as a worker of the benchmarks of speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speed_serving import Ready, Timing, Work, serve

from halfpint.checkpoints import open_checkpoint
from halfpint.engine.cache import Cache
from halfpint.engine.decoder import Decoder
from halfpint.engine.generation import Generation, GenerationOptions
from halfpint.kernels import _native, machine


class Model:
    """A loaded model."""

    def __init__(self, options: dict[str, Any]) -> None:
        machine.set_thread_count(options["threads"])
        if not _native.force_isa(options["isa"] or _native.best_isa()):
            raise SystemExit(f"this processor has no {options['isa']}")
        self.checkpoint = open_checkpoint(Path(options["model"]))
        self.decoder = Decoder.load(self.checkpoint)

    def run(self, work: Work) -> Timing:
        """Read a prompt and continue it by the likeliest tokens."""
        if work.sequences != 1:
            raise NotImplementedError("batches")
        config = self.decoder.config
        cache = Cache(config, work.prompt + work.tokens + 1)
        (prompt,) = work.prompts(config.vocab_size)
        generation = Generation(self.decoder, prompt, GenerationOptions(max_tokens=work.tokens + 1), cache)
        ids = list(generation)
        return Timing(generation.record.prefill_seconds, generation.record.decode_seconds, [ids])


def load(options: dict[str, Any]) -> Ready:
    """Load the model that the benchmark names."""
    return Model(options)


if __name__ == "__main__":
    serve(load)
