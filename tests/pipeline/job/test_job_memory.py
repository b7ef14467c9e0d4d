"""A hard cap on memory, kept by the kernel: tensors larger than the cap allows stream through in slices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import halfpint
import shapes

LIMIT_BYTES = 1_000_000_000
# The embedding alone is 524 MB as float32: it would not fit twice.
WIDE = shapes.Shape(hidden=4096, intermediate=11008, layers=1, heads=32, kv_heads=32, vocabulary=32000, positions=4096)

# The peak is the kernel's count for this program alone (VmHWM): `ru_maxrss` would start at what the parent held.
LIMITED = """
import resource, runpy, sys
from pathlib import Path

limit, peak = int(sys.argv[1]), Path(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
sys.argv[:] = ["halfpint", *sys.argv[3:]]
try:
    runpy.run_module("halfpint", run_name="__main__", alter_sys=True)
finally:
    kib = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    peak.write_text(str(1024 * int(kib)))
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide") / "model"
    folder.mkdir()
    shapes.write_config(WIDE, folder)
    shapes.write_tokenizer(WIDE, folder)
    shapes.write_shards(WIDE, folder, seed=0)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [("--bits", "4", "--to", "gguf"), ("--bits", "4", "--to", "compressed-tensors"), ("--bits", "8", "--to", "gguf")],
    ids=" ".join,
)
def test_a_wide_model_is_quantized_and_verified_in_under_a_gigabyte(wide, tmp_path, options):
    environment = os.environ | {"PYTHONPATH": str(Path(halfpint.__file__).parents[1])}
    output = tmp_path / "out"
    for command in (["quantize", str(wide), str(output), "--no-measure", *options], ["verify", str(output)]):
        peak = tmp_path / "peak"
        full = [sys.executable, "-c", LIMITED, str(LIMIT_BYTES), str(peak), *command]
        subprocess.run(full, env=environment, stdout=subprocess.DEVNULL, check=True)
        assert int(peak.read_text()) < LIMIT_BYTES
