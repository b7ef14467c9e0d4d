"""The default number of threads keeps to what control groups pay for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from halfpint.kernels import _native

GROUPS = {  # /proc/self/cgroup, files below /sys/fs/cgroup, processors
    "no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, 0),
    "two and a half": ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
    "less than one": ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
    "own group": ("0::/jobs/mine\n", {"jobs/mine/cpu.max": "300000 100000\n"}, 3),
    "group above": ("0::/jobs/mine\n", {"jobs/cpu.max": "200000 100000\n", "jobs/mine/cpu.max": "max 100000\n"}, 2),
    "strictest of two": ("0::/a/b\n", {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "100000 50000\n"}, 2),
    "top of a container": ("0::/not/seen/here\n", {"cpu.max": "600000 100000\n"}, 6),
    "version 1": (
        "5:memory:/\n4:cpu,cpuacct:/box\n",
        {"cpu,cpuacct/box/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/box/cpu.cfs_period_us": "50000\n"},
        3,
    ),
    "version 1 without a limit": (
        "4:cpu,cpuacct:/\n",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        0,
    ),
    "other controllers": ("4:cpuset:/box\n", {"cpuset/box/cpu.cfs_quota_us": "100\n"}, 0),
    "broken": ("no colons\n0::\n4:cpu\n", {"cpu.max": "lots and lots\n"}, 0),
    "empty": ("", {}, 0),
}


@pytest.mark.parametrize("name", GROUPS)
def test_the_strictest_group_counts(name, tmp_path):
    own, files, processors = GROUPS[name]
    everything = {"proc/self/cgroup": own} | {f"sys/fs/cgroup/{path}": text for path, text in files.items()}
    for path, text in everything.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert _native.processor_quota(str(tmp_path)) == processors


def test_no_more_threads_than_processors():
    assert 1 <= _native.thread_count() <= (os.cpu_count() or 1)


FORKING = """
import os
import subprocess
import sys
import numpy as np
from halfpint.kernels import _native

def compute():
    return _native.read_bandwidth(np.ones(1 << 20, np.uint64), 1) > 0

_native.set_thread_count(2)
assert compute()  # the pool is there, and its threads are not in the child
child = os.fork()
if child == 0:
    computed = False
    try:
        computed = compute()
    finally:
        os._exit(0 if computed else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_a_forked_child_computes_too():
    # In a process of its own: a child of this one that fails would go on as a second run of all tests.
    subprocess.run([sys.executable, "-c", FORKING], check=True, timeout=60)
