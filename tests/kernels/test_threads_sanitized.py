"""The pool under the thread, address and undefined-behaviour sanitizers; `make sanitize` runs the whole module so."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"
SOURCES = [NATIVE / name for name in ("checks/threads_check.cpp", "threads.cpp", "processors.cpp")]
QUIET = {"TSAN_OPTIONS": "exitcode=66", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_the_pool_is_clean(sanitizer, tmp_path):
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    program = tmp_path / "threads_check"
    flags = ["-std=c++20", "-O1", "-g1", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-pthread"]
    command = [compiler, *flags, f"-I{NATIVE}", *map(str, SOURCES), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode and ("cannot find" in built.stderr or "unsupported" in built.stderr):
        pytest.skip(f"the compiler has no {sanitizer} sanitizer")
    assert built.returncode == 0, built.stderr
    # Without random addresses: the thread sanitizer needs the places that it knows.
    fixed = ["setarch", platform.machine(), "-R"] if shutil.which("setarch") else []
    # The sanitizers that `.ci/sanitize` puts before the interpreter are not this program's.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"} | QUIET
    ran = subprocess.run([*fixed, str(program)], capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr[-6000:]
