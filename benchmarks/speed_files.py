"""Make the files that the benchmarks of speed run: a shape with random weights, as llama.cpp's quantizer writes it.

    python benchmarks/speed_files.py tinyllama-1.1b /somewhere --types Q4_K_M Q4_0 IQ4_XS Q8_0

What is there already is kept. Needs llama.cpp (`make engines`). On two processors Q4_K_M takes a 7B model five minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import halfpint
from halfpint.pipeline.options import QuantizeOptions
from llama_peer import engine
from shapes import SHAPES

TYPES = ["Q4_K_M", "Q4_0", "IQ4_XS", "Q8_0", "BF16"]


def original(shape: str, folder: Path) -> Path:
    """The folder in the layout of Hugging Face."""
    target = folder / shape
    if not target.exists():
        subprocess.run([sys.executable, str(Path(__file__).with_name("shapes.py")), shape, str(target)], check=True)
    return target


def half_precision(shape: str, folder: Path) -> Path:
    """The source of llama.cpp's quantizer."""
    target = folder / f"{shape}-F16.gguf"
    if not target.exists():
        rules = ("*embed*=f16", "lm_head*=f16")
        options = QuantizeOptions(format="f16", rules=rules, calibrate=False, measure=None)
        halfpint.quantize(original(shape, folder), target, options)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--types", nargs="+", default=TYPES, metavar="TYPE")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    source = half_precision(arguments.shape, arguments.folder)
    with engine(arguments.threads) as peer:
        for type_name in arguments.types:
            target = arguments.folder / f"{arguments.shape}-{type_name}.gguf"
            if target.exists():
                continue
            started = time.monotonic()
            partial = target.with_suffix(".part")
            peer.quantize_file(source, partial, type_name)
            partial.rename(target)
            print(f"{target.name}: {time.monotonic() - started:.0f} s, {target.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    main()
