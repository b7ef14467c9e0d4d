"""Our own engine as a worker of the benchmarks of speed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from speed_serving import Ready, Timing, Work, serve

import halfpint
from halfpint.checkpoints import open_checkpoint
from halfpint.engine.batching import BatchGeneration
from halfpint.engine.cache import Cache
from halfpint.engine.decoder import Decoder
from halfpint.engine.generation import Generation
from halfpint.engine.sequence import GenerationOptions
from halfpint.kernels import _native, machine


class Model:
    """A loaded model."""

    version = f"halfpint {halfpint.__version__}"

    def __init__(self, options: dict[str, Any]) -> None:
        machine.set_thread_count(options["threads"])
        if not _native.force_isa(options["isa"] or _native.best_isa()):
            raise SystemExit(f"this processor has no {options['isa']}")
        self.checkpoint = open_checkpoint(Path(options["model"]))
        self.decoder = Decoder.load(self.checkpoint, activations="int8")
        self.kv_cache = options.get("kv_cache", "f16")

    def run(self, work: Work) -> Timing:
        """Read prompts and continue them by the likeliest tokens."""
        config, options = self.decoder.config, GenerationOptions(max_tokens=work.tokens + 1)
        prompts = work.prompts(config.vocab_size)
        caches = [Cache(config, work.prompt + work.tokens + 1, kind=self.kv_cache) for _ in prompts]
        if work.sequences == 1:
            one = Generation(self.decoder, prompts[0], options, caches[0])
            begun, ids, first = time.process_time(), [], 0.0
            for token in one:
                first = first or time.process_time()
                ids.append(token)
            spent = first - begun, time.process_time() - first
            return Timing(one.record.prefill_seconds, one.record.decode_seconds, [ids], spent)
        several = BatchGeneration(self.decoder, prompts, options, caches)
        rows: list[list[int]] = [[] for _ in prompts]
        for number, token in several:
            rows[number].append(token)
        return Timing(several.record.prefill_seconds, several.record.decode_seconds, rows)


def load(options: dict[str, Any]) -> Ready:
    """Load the model that the benchmark names."""
    return Model(options)


if __name__ == "__main__":
    serve(load)
