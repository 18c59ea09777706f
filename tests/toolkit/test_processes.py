"""How many cores a process may use, in cgroups that are drawn; workers that cannot be begun."""

import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
from contextlib import suppress

import pytest

from toolkit.errors import WorkerError
from toolkit.processes import Workers, cores

HYBRID = "24 23 0:1 / /sys/fs/cgroup/{} rw - {} cgroup rw{}\n"
V2 = "30 23 0:2 {} /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup rw,nsdelegate\n"
V1 = "31 23 0:3 {} /sys/fs/cgroup/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """Return a function: the cores of a process in these cgroups on a machine of 64."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)

    def draw(own, mounts, files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(own)
        (tmp_path / "proc/self/mountinfo").write_text(mounts)
        for name, content in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return cores(tmp_path)

    return draw


@pytest.mark.parametrize(
    ("own", "mount", "files", "expected"),
    [
        ("0::/\n", V2.format("/"), {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", V2.format("/"), {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", V2.format("/"), {"cpu.max": "5000 100000\n"}, 1),
        ("0::/\n", V2.format("/"), {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", V2.format("/"), {"cpu.max": "9900000 100000\n"}, 64),
        ("0::/\n", V2.format("/"), {"cpu.max": ""}, 64),
        ("0::/\n", V2.format("/"), {"cpu.max": "200000 0\n"}, 64),
        ("0::/\n", V2.format("/"), {}, 64),
        ("", "", {"cpu.max": "200000 100000\n"}, 64),
        (
            "0::/a.slice/b.service\n",
            V2.format("/"),
            {"a.slice/b.service/cpu.max": "max 100000\n", "a.slice/cpu.max": "300000 100000\n"},
            3,
        ),
        (
            "0::/kubepods/pod1/c2\n",
            V2.format("/kubepods/pod1/c2"),
            {"cpu.max": "250000 100000\n"},
            3,
        ),
        ("0::/../elsewhere\n", V2.format("/"), {"cpu.max": "400000 100000\n"}, 4),
        (
            "4:cpu,cpuacct:/docker/1\n3:memory:/docker/1\n",
            V1.format("/docker/1"),
            {"cpu,cpuacct/cpu.cfs_quota_us": "120000\n", "cpu,cpuacct/cpu.cfs_period_us": "50000"},
            3,
        ),
        (
            "4:cpu,cpuacct:/job\n",
            V1.format("/"),
            {
                "cpu,cpuacct/job/cpu.cfs_quota_us": "-1\n",
                "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
                "cpu,cpuacct/cpu.cfs_quota_us": "500000\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            5,
        ),
        (
            "2:cpu:/\n1:cpuset:/\n0::/\n",
            HYBRID.format("unified", "cgroup2", "")
            + HYBRID.format("cpuset", "cgroup", ",cpuset")
            + HYBRID.format("cpu", "cgroup", ",cpu"),
            {"cpu/cpu.cfs_quota_us": "700000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            7,
        ),
    ],
)
def test_quota_of_a_cgroup_or_one_above_it_is_rounded_up(cgroups, own, mount, files, expected):
    assert cgroups(own, mount, files) == expected


def test_cores_are_never_more_than_affinity_allows(cgroups, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert cgroups("0::/\n", V2.format("/"), {"cpu.max": "800000 100000\n"}) == 1


@pytest.mark.skipif(not shutil.which("taskset"), reason="no taskset")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_model_is_opened_with_a_thread_for_each_core_that_the_process_may_use(small_files):
    one = str(min(os.sched_getaffinity(0)))
    code = (
        "import sys; from pathlib import Path; from toolkit.runtime.providers import open_session;"
        "s = open_session(Path(sys.argv[1]), 'cpu');"
        "print(s.get_session_options().intra_op_num_threads)"
    )
    command = ["taskset", "-c", one, sys.executable, "-c", code, str(small_files.path("pipeline"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def wait_for_the_end(pipe, *_):
    with suppress(EOFError):
        pipe.recv()


def test_a_worker_that_the_machine_cannot_begin_is_one_error():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    workers = Workers(1, wait_for_the_end)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        with pytest.raises(WorkerError, match="cannot be begun: Too many open files"):
            workers.__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class PicklesOnce:
    """An argument that the first worker can be given, and no other."""

    def __init__(self):
        self.given = False

    def __reduce__(self):
        if self.given:
            raise ValueError("given already")
        self.given = True
        return int, ()


def test_where_one_worker_cannot_be_begun_the_others_are_ended():
    with pytest.raises(ValueError, match="given already"):
        Workers(2, wait_for_the_end, PicklesOnce()).__enter__()
    assert not multiprocessing.active_children()
