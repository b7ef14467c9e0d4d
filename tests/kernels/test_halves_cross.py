"""Lanes of floats convert halves as IEEE 754 says and know the exponential, on every instruction set that runs here."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from halfpint.kernels import machine

NATIVE = Path(__file__).parents[2] / "native"
FLAGS = ("-O1", "-std=c++20", "-Wno-psabi", "-Wno-unused-function", "-ffp-contract=off", f"-I{NATIVE}")
AVX2 = ("-mavx2", "-mfma", "-mf16c")
SETS = {
    "portable": (),
    "avx2": AVX2,
    "avx512": (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"),
}


def check(compiler: str, folder: Path, *more: str, emulator: tuple[str, ...] = ()) -> None:
    program = folder / "check"
    subprocess.run([compiler, *FLAGS, *more, str(NATIVE / "checks/halves_check.cpp"), "-o", program], check=True)
    done = subprocess.run([*emulator, program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "0\n")


@pytest.mark.parametrize("isa", SETS)
def test_lanes_of_this_processor_are_right(isa, tmp_path):
    if shutil.which("c++") is None or not machine.NEEDS[isa] <= set(machine.features()):
        pytest.skip(f"needs a compiler, and {isa}")
    check("c++", tmp_path, *SETS[isa])


def test_lanes_of_arm_are_right(tmp_path):
    cross, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static")
    if platform.machine() == "aarch64" or cross is None or emulator is None:
        pytest.skip("needs a compiler for aarch64 and qemu (Debian: g++-aarch64-linux-gnu, qemu-user-static)")
    check(cross, tmp_path, "-static", "-march=armv8.2-a+dotprod", emulator=(emulator,))
