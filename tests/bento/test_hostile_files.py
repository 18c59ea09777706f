"""Thousands of damaged files, sent to the real service."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from mutations import mutated

FILES, WARM_UP = 2_000, 500
RAW = {"content-type": "application/octet-stream"}


def _memory_kb(pid):
    """Resident memory of a process and of all that it started, kB."""
    total = 0
    waiting = [pid]
    while waiting:
        each = waiting.pop()
        status = Path(f"/proc/{each}/status").read_text()
        total += int(status.partition("VmRSS:")[2].split()[0])
        for task in Path(f"/proc/{each}/task").iterdir():
            waiting += [int(child) for child in (task / "children").read_text().split()]
    return total


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc to look into")
def test_2000_damaged_files_are_each_answered_or_refused_with_a_reason(
    served, serving, encoded, xrays, tmp_path
):
    with serving(served, tmp_path, TOOLKIT_WORKERS="1") as (process, url, log):
        with httpx.Client(base_url=url, timeout=30) as client:

            def send(content):
                answer = client.post("/predict", content=content, headers=RAW)
                said = answer.json()
                known = "class" in said if answer.status_code == 200 else len(said["detail"]) > 10
                assert known, answer.text
                return answer.status_code

            statuses, memory = Counter(), 0
            with ThreadPoolExecutor(4) as pool:
                for number, status in enumerate(pool.map(send, mutated(FILES, seed=6))):
                    statuses[status] += 1
                    if number == WARM_UP:
                        memory = _memory_kb(process.pid)
            assert set(statuses) == {200, 415, 422}, statuses
            assert min(statuses.values()) > FILES // 100, "too few of a kind to show anything"
            assert _memory_kb(process.pid) < 1.1 * memory
            assert send(encoded(xrays[0])) == 200
        assert "Traceback" not in log.read_text()
