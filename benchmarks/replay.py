"""Replay gate: this checkout against an earlier one, `python benchmarks/replay.py EARLIER [--families NAME ...]`.

Runs the same commands with the package of both checkouts and compares what must not change when code only moves: every
tensor of the demo model in five plans and of the tiny model of every family in one, all digits that `measure` gives for
them (logits that differ in any bit change them), and the keys of every JSON result. Metadata of files is compared too
and printed apart. Both checkouts need their native module in `src/halfpint/kernels`. The exit code is 1 if anything
differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
PLANS: Mapping[str, tuple[str, ...]] = {
    "4 bits": ("demo.gguf", "--bits", "4", "--no-calibrate"),
    "8 bits": ("demo8.gguf", "--bits", "8", "--no-calibrate"),
    "integers": ("demo-int4", "--bits", "4", "--no-calibrate", "--to", "compressed-tensors"),
    "calibrated": ("demo-q4_k.gguf", "--format", "q4_k", "--calibrate", "--calibration-tokens", "2048"),
    "budget": ("demo-mixed.gguf", "--bpw", "4.5", "--calibrate", "--calibration-tokens", "2048"),
}
MEASURED = ("--tokens", "1024")
VOLATILE = ("seconds", "per_second", "memory", "path", "output", "version", "bandwidth", "processors", "resumed")


def run(checkout: Path, *arguments: str) -> dict[str, Any]:
    """Give the JSON result of one command of this checkout's package; `error` holds the message of a failed one."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    command = [sys.executable, "-m", "halfpint", *arguments, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=checkout)
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"error": (done.stdout + done.stderr)[-500:], "exit_code": done.returncode}
    return result


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key paths and values of a JSON value; items of a list share one path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, list):
        for inner in value:
            yield from flat(inner, f"{prefix}[]")
    else:
        yield prefix, value


def keys(result: Mapping[str, Any]) -> set[str]:
    """Key paths of a result."""
    return {path for path, _ in flat(result)}


def numbers(result: Mapping[str, Any]) -> dict[str, str]:
    """Every value that must be the same in both checkouts."""
    stable = [(path, value) for path, value in flat(result) if not any(word in path for word in VOLATILE)]
    return {f"{path} #{index}": repr(value) for index, (path, value) in enumerate(stable)}


def tensors(output: Path) -> dict[str, str]:
    """Digest of the bytes of every tensor of a file or folder, and of all else in it under `metadata`."""
    import gguf  # noqa: PLC0415 - only where a GGUF file was made
    from safetensors import safe_open  # noqa: PLC0415

    if output.is_file():
        reader = gguf.GGUFReader(output)
        found = {tensor.name: hashlib.sha256(tensor.data.tobytes()).hexdigest() for tensor in reader.tensors}
        head = b"".join(field.name.encode() + bytes(part) for field in reader.fields.values() for part in field.parts)
        return {**found, "metadata": hashlib.sha256(head).hexdigest()}
    found = {}
    for path in sorted(output.rglob("*")):
        if path.suffix == ".safetensors":
            with safe_open(path, "np") as file:
                found |= {f"{path.name}:{key}": repr(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        if path.is_file():
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def job(checkout: Path, model: str, folder: Path, plan: tuple[str, ...]) -> dict[str, Any]:
    """Quantize and measure: results and digests."""
    output = folder / plan[0]
    quantized = run(checkout, "quantize", model, str(output), *plan[1:], "--no-measure", "--threads", "2")
    measured = run(checkout, "measure", str(output), "--against", model, *MEASURED, "--threads", "2")
    digests = tensors(output) if output.exists() else {"missing": json.dumps(quantized)[:500]}
    return {"quantize": quantized, "measure": measured, "tensors": digests}


def differences(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Lines that say what changed between two jobs."""
    for verb in ("quantize", "measure"):
        yield from (f"{name}: {verb} failed: {side[verb]}" for side in (before, after) if "error" in side[verb])
        for path in sorted(keys(before[verb]) - keys(after[verb])):
            yield f"{name}: {verb}: the key {path} is gone"
        for path in sorted(keys(after[verb]) - keys(before[verb])):
            yield f"{name}: {verb}: the key {path} is new"
    old, new = numbers(before["measure"]), numbers(after["measure"])
    yield from (f"{name}: measure: {key} was {old[key]}, is {new.get(key)}" for key in old if old[key] != new.get(key))
    old, new = before["tensors"], after["tensors"]
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    yield from (f"{name}: {key}: other bytes" for key in changed)


def jobs(families: list[str], folder: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name, model and plan of everything that is compared."""
    for name, plan in PLANS.items():
        yield f"demo, {name}", "demo", plan
    if families:
        sys.path.insert(0, str(ROOT / "tests"))
        import tiny_models  # noqa: PLC0415 - needs torch

        for family in families:
            tiny_models.save_tiny(family, folder / family)
            yield family, str(folder / family), ("tiny.gguf", "--format", "q8_0", "--no-calibrate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("earlier", type=Path, help="a checkout to compare with")
    parser.add_argument("--families", nargs="*", default=["llama", "qwen3", "gemma2", "gemma3_text", "mixtral", "phi3"])
    arguments = parser.parse_args()
    changed = False
    with TemporaryDirectory() as scratch:
        for name, model, plan in jobs(arguments.families, Path(scratch)):
            results = []
            for label, checkout in (("before", arguments.earlier.resolve()), ("after", ROOT)):
                folder = Path(scratch) / label / name
                folder.mkdir(parents=True)
                results.append(job(checkout, model, folder, plan))
            lines = list(differences(name, *results))
            print("\n".join(lines) or f"{name}: the same")
            changed = changed or bool(lines)
    raise SystemExit(changed)


if __name__ == "__main__":
    main()
