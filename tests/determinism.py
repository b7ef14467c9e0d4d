"""Run the tests that promise bits under other processors' kernels: `python tests/determinism.py [pytest arguments]`.

Each run has the BLAS kernels of one class of processors (`OPENBLAS_CORETYPE`) and one forced set of native kernels;
together they take every class and every set that this processor can run. Two run at a time. The exit code is 1 if any
run fails.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

from halfpint.kernels import machine
from instruction_sets import ISAS

ROOT = Path(__file__).parents[1]
CORES: Mapping[str, frozenset[str]] = {
    "SkylakeX": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"}),
    "Sandybridge": frozenset({"avx"}),
    "Haswell": frozenset({"avx2", "fma"}),
    "Prescott": frozenset(),
}
"""Core types of OpenBLAS on x86-64, and the features each needs."""
OTHER_NAMES: Mapping[str, str] = {"Prescott": "Katmai"}
"""What OpenBLAS says of a core type whose kernels an older one has too."""
FOLDERS = (
    "kernels/test_blas.py",
    "kernels/test_machine.py",
    "solvers",
    "calibration",
    "measuring/test_threads.py",
    "pipeline/job/test_job.py",
)
TWO_AT_A_TIME = 2
_CORE = "import numpy, threadpoolctl; print(*(each.get('architecture') for each in threadpoolctl.threadpool_info()))"


def core_types() -> list[str]:
    """Core types that this processor can run; the others are named."""
    if platform.machine() not in {"x86_64", "AMD64"}:
        print(f"{platform.machine()}: the BLAS kernels of this processor only")
        return [""]
    present = set(machine.features())
    for name, needs in CORES.items():
        if not needs <= present:
            print(f"{name}: left out, this processor has no {', '.join(sorted(needs - present))}")
    return [name for name, needs in CORES.items() if needs <= present]


def run(core: str, isa: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run the tests once; its output ends with what BLAS says of itself where that is another core type."""
    environment = dict(os.environ, OPENBLAS_CORETYPE=core) if core else dict(os.environ)
    found = subprocess.run([sys.executable, "-c", _CORE], env=environment, capture_output=True, text=True, check=True)
    if core and found.stdout.strip() not in {core, OTHER_NAMES.get(core, core)}:
        return subprocess.CompletedProcess([], 1, f"OPENBLAS_CORETYPE={core} was not obeyed: {found.stdout}")
    tests = [str(ROOT / "tests" / folder) for folder in FOLDERS]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "bits", "-p", "no:cacheprovider", f"--kernels={isa}"]
    command += [*tests, *arguments]
    return subprocess.run(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def main() -> int:
    cores = core_types()
    count = max(len(cores), len(ISAS))
    pairs = list(zip(islice(cycle(cores), count), islice(cycle(ISAS), count), strict=True))
    with ThreadPoolExecutor(TWO_AT_A_TIME) as executor:
        runs = [executor.submit(run, core, isa, sys.argv[1:]) for core, isa in pairs]
        for (core, isa), future in zip(pairs, runs, strict=True):
            done = future.result()
            print(f"== BLAS kernels {core or 'of this processor'}, native kernels {isa}: ", end="")
            print(done.stdout if done.returncode else done.stdout.strip().splitlines()[-1], flush=True)
    return int(any(future.result().returncode for future in runs))


if __name__ == "__main__":
    sys.exit(main())
