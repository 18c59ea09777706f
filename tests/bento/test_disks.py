"""The real service on disks that are full or cannot be written."""

import subprocess
import time
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.full
RAW = {"content-type": "image/png"}
FULL = """
mount -t tmpfs -o size=16k none "$HOME" && cat /dev/zero > "$HOME/rest" 2>/dev/null
[ -s "$HOME/rest" ] && exec "$@"
"""
READ_ONLY = """
mount --bind / / && mount -o remount,bind,ro / && cd "$PWD" || exit 3
touch "$HOME/probe" 2>/dev/null && exit 4
exec "$@"
"""


def _answers(start, encoded, xrays):
    """Whether the service that `start` starts comes to answer."""
    process, url = start()
    try:
        end = time.monotonic() + 60
        while True:
            assert process.poll() is None and time.monotonic() < end
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.05)
        answer = httpx.post(f"{url}/predict", content=encoded(xrays[0]), headers=RAW)
        assert answer.status_code == 200, answer.text
    finally:
        process.terminate()
        process.wait(30)


def test_read_only_home_and_a_log_that_is_full_do_not_matter(served, started, encoded, xrays):
    with Path("/dev/full").open("w") as full:
        environment = {"HOME": "/proc/nowhere", "TOOLKIT_WORKERS": "1"}
        _answers(lambda: started(served, "", None, full, full, **environment), encoded, xrays)


@pytest.mark.parametrize("mounted", [FULL, READ_ONLY])
@pytest.mark.parametrize("named", [True, False])
def test_disk_that_is_full_or_cannot_be_written_does_not_matter(
    served, started, encoded, xrays, tmp_path, mounted, named
):
    try:
        subprocess.run(["unshare", "-m", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount a disk of its own")
    within = ["unshare", "-m", "sh", "-c", mounted, "sh"]
    environment = {"HOME": str(tmp_path), "TOOLKIT_WORKERS": "1"}
    home = tmp_path / "bentoml" if named else ""
    _answers(lambda: started(served, home, within=within, **environment), encoded, xrays)
