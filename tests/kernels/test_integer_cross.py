"""Integer products give the same bits on ARM: compiled for it, run by an emulator, compared with this processor."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"
FLAGS = ("-O0", "-std=c++20", "-Wall", "-Wextra", "-Wno-psabi", "-Werror", "-ffp-contract=off", f"-I{NATIVE}")
SOURCES = ("isa/integer.cpp", "isa/integer_pack.cpp", "isa/panel.cpp")


def build(compiler: str, folder: Path, sets: dict[str, tuple[str, ...]], *more: str) -> Path:
    """Compile the check with the kernels of some instruction sets, each with its flags."""
    objects = []
    for name, flags in sets.items():
        for source in SOURCES:
            made = folder / f"{name}-{Path(source).stem}.o"
            command = [compiler, *FLAGS, *flags, f"-DHALFPINT_ISA={name}", "-c", str(NATIVE / source), "-o", str(made)]
            subprocess.run(command, check=True)
            objects.append(str(made))
    program = folder / "check"
    subprocess.run(
        [compiler, *FLAGS, *more, str(NATIVE / "checks/integer_check.cpp"), *objects, "-o", program], check=True
    )
    return program


def hashes(output: str, isa: str) -> list[str]:
    return [line.partition(" ")[2] for line in output.splitlines() if line.startswith(f"{isa} ")]


@pytest.mark.slow
def test_arm_gives_the_same_bits(tmp_path):
    cross, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static")
    if platform.machine() == "aarch64" or cross is None or emulator is None:
        pytest.skip("needs a compiler for aarch64 and qemu (Debian: g++-aarch64-linux-gnu, qemu-user-static)")
    (tmp_path / "here").mkdir()
    (tmp_path / "arm").mkdir()
    here = build("c++", tmp_path / "here", {"portable": ()})
    sets = {"portable": (), "neon": ("-march=armv8.2-a+dotprod",)}
    arm = build(cross, tmp_path / "arm", sets, "-static", "-DHALFPINT_CHECKED=neon")
    expected = hashes(subprocess.run([here], check=True, capture_output=True, text=True).stdout, "portable")
    output = subprocess.run([emulator, arm], check=True, capture_output=True, text=True).stdout
    assert len(expected) > 50
    assert hashes(output, "portable") == expected
    assert hashes(output, "neon") == expected
