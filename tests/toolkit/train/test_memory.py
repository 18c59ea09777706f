import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
if sys.argv[1] == "kept":
    from toolkit.train.memory import keep_freed
    keep_freed()
def step():
    return [np.ones(2_000_000, np.float64) for _ in range(4)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of the GNU C library")
def test_memory_that_was_freed_is_used_again_without_page_faults():
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True).stdout)
        for mode in ("kept", "plain")
    )
    assert kept < given_back / 4
