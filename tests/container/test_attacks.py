"""The CPU image, run locked down: what holds for a service on this machine holds in it, too."""

import json
import os
import signal
import stat
import time
from pathlib import Path

import httpx
import pytest
from attacker import (
    ASK,
    QUICK,
    assert_none_is_left,
    await_whole,
    freeze_until_replaced,
    leave_answers_unread,
    tcp_ports_of,
    unix_paths_of,
)

from toolkit.xray.pictures import encode
from toolkit.xray.synthetic import generate

pytestmark = [pytest.mark.container, pytest.mark.timeout(1800)]

USER, NOBODY = 1034, 65534
# A process that goes on without the service, as where containers share their processes.
OUTLIVING = '["sh", "-c", "bentoml serve /app; sleep 600"]'


@pytest.fixture(scope="session")
def png():
    return encode(generate(1, seed=5)[0].pixels)


@pytest.fixture(scope="session")
def processes_of(podman, processes_below):
    """Return a function: this machine's ids of a container's processes, its first one first."""
    return lambda container: processes_below(
        int(podman("inspect", container, "--format={{.State.Pid}}"))
    )


def test_other_users_in_the_container_reach_the_port_and_nothing_else(
    podman, running, processes_of
):
    container, _ = running
    processes = processes_of(container)
    assert {port for each in processes for port in tcp_ports_of(each)} == {3000}
    paths = {path for each in processes for path in unix_paths_of(each)}
    (folder,) = {path.parent for path in paths}
    found = Path(f"/proc/{processes[0]}/root{folder}").stat()
    assert stat.S_IMODE(found.st_mode) == 0o700 and found.st_uid == USER

    def answer_to(user):
        asking = ["python", "-c", ASK, str(user), *(f"ipc://{path}" for path in paths)]
        return podman("exec", f"--user={user}", container, *asking)

    assert answer_to(NOBODY) == "no answer\n"
    assert "service" in json.loads(answer_to(USER))["watchers"]


def test_the_first_process_is_not_killed_from_inside_and_reaps_what_others_leave(
    running, inside, processes_of
):
    container, url = running
    before = processes_of(container)
    orphan = inside("kill -KILL 1; sleep 600 >/dev/null 2>&1 & echo $!").strip()
    (left,) = set(processes_of(container)) - set(before)
    inside(f"kill -KILL {orphan}")
    end = time.monotonic() + 20
    while left in processes_of(container):
        assert time.monotonic() < end, "it stays as a zombie"
    assert httpx.get(f"{url}/readyz").json()["whole"]
    assert processes_of(container) == before


def test_answers_that_nobody_reads_are_given_up_while_others_are_served(running, processes_of, png):
    container, url = running
    leave_answers_unread(url, "model_saved", processes_of(container)[-1], png)


def test_frozen_worker_is_replaced_and_none_outlives_the_process_that_minds_it(
    start, podman, processes_of, png, tmp_path
):
    (tmp_path / "sitecustomize.py").write_text(QUICK)
    tmp_path.chmod(0o755)
    container, url = start(
        *(f"--volume={tmp_path}:/site:ro", "--env=PYTHONPATH=/site:/app"),
        *(f"--entrypoint={OUTLIVING}", "--env=TOOLKIT_WORKERS=2"),
    )
    await_whole(url)
    _, parent, *workers = processes_of(container)
    freeze_until_replaced(workers[-1], url, png, lambda: processes_of(container))
    assert set(workers[:-1]) <= set(processes_of(container))
    _, *service = processes_of(container)
    os.kill(parent, signal.SIGKILL)
    assert_none_is_left(service)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/livez")
    assert podman("inspect", container, "--format={{.State.Running}}") == "true\n"


def test_the_container_ends_with_the_process_that_minds_the_workers(start, podman, processes_of):
    container, url = start("--env=TOOLKIT_WORKERS=2")
    processes = processes_of(container)
    parent = Path(f"/proc/{processes[-1]}/stat").read_text().rpartition(")")[2].split()[1]
    os.kill(int(parent), signal.SIGKILL)
    assert_none_is_left(processes)
    assert podman("wait", container) == "137\n"
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/livez")
