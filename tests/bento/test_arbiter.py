"""The process that minds the workers, whatever begins it, and its end however it comes."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

import httpx
import pytest
from attacker import ASK, assert_none_is_left, is_running, tcp_ports_of, unix_paths_of

NOBODY = 65534


@pytest.fixture(scope="module")
def service(served, serving, tmp_path_factory):
    """A service that the last of the tests that ask for it ends."""
    with serving(served, tmp_path_factory.mktemp("home"), TOOLKIT_WORKERS="1") as found:
        yield found


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="only root can be another")
def test_no_other_user_can_ask_the_arbiter_for_anything(service):
    process, url, _ = service
    port = int(url.rpartition(":")[2])
    paths = unix_paths_of(process.pid)
    addresses = [f"ipc://{path}" for path in paths]
    addresses += [f"tcp://127.0.0.1:{each}" for each in tcp_ports_of(process.pid) - {port}]

    def answer_to(user):
        command = [sys.executable, "-c", ASK, str(user), *addresses]
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout

    assert answer_to(NOBODY) == "no answer\n"
    assert "service" in json.loads(answer_to(os.getuid()))["watchers"]


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc to look into")
def test_arbiter_listens_in_a_folder_of_its_own_and_ends_at_sigterm_with_exit_0_and_all_it_began(
    service, processes_below
):
    process, url, log = service
    tree = processes_below(process.pid)
    assert tcp_ports_of(process.pid) == {int(url.rpartition(":")[2])}
    paths = unix_paths_of(process.pid)
    (folder,) = {path.parent for path in paths}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.stat().st_uid == os.getuid()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, log.read_text()
    assert_none_is_left(tree)
    assert not folder.exists()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("when", ["at work", pytest.param("just begun", marks=pytest.mark.full)])
def test_workers_end_when_their_parent_is_killed(
    served, started, await_status, processes_below, tmp_path, when
):
    log = tmp_path / "log"
    with log.open("wb") as out:
        process, url = started(served, tmp_path, None, out, out, TOOLKIT_WORKERS="2")
    if when == "at work":
        await_status(url, 200, process, log)
    while len(tree := processes_below(process.pid)) < 3:
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert_none_is_left(tree)


@pytest.mark.full
@pytest.mark.parametrize("within", [(), ("nohup",)], ids=["of a terminal", "under nohup"])
def test_hangup_ends_the_service_unless_nohup_began_it(
    served, started, await_status, processes_below, tmp_path, within
):
    log = tmp_path / "log"
    with log.open("wb") as out:
        process, url = started(served, tmp_path, None, out, out, within, TOOLKIT_WORKERS="1")
    await_status(url, 200, process, log)
    tree = processes_below(process.pid)
    try:
        process.send_signal(signal.SIGHUP)
        if within:
            assert httpx.get(f"{url}/readyz").status_code == 200 and is_running(tree[-1])
            # Of two that end it only one is heard: a hangup that does has ended it already.
            time.sleep(1)
            assert is_running(process.pid)
            process.terminate()
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
    assert_none_is_left(tree)


IN_PYTHON = """
import signal, sys
import bentoml
server = bentoml.serve("bento.service:XrayClassifier", host=sys.argv[2], port=int(sys.argv[4]))
signal.sigwait([signal.SIGUSR1])
server.stop()
"""


@pytest.mark.full
@pytest.mark.parametrize(
    "command",
    [("-m", "bentoml", "serve"), ("-c", IN_PYTHON)],
    ids=["python -m bentoml serve", "bentoml.serve()"],
)
def test_service_is_the_same_whatever_begins_it(
    served, started, await_status, processes_below, encoded, xrays, tmp_path, command
):
    command, log = (sys.executable, *command), tmp_path / "log"
    with log.open("wb") as out:
        process, url = started(
            served, tmp_path, None, out, out, command=command, TOOLKIT_WORKERS="2"
        )
    await_status(url, 200, process, log)
    tree = processes_below(process.pid)
    try:
        for _ in range(8):
            answer = httpx.post(f"{url}/predict", files={"xray": encoded(xrays[0])})
            assert answer.status_code == 200, answer.text
        counted = set()
        for _ in range(8):
            lines = httpx.get(f"{url}/metrics").text.splitlines()
            counts = [line for line in lines if line.startswith("toolkit_predictions_total{")]
            counted.add(sum(float(line.rpartition(" ")[2]) for line in counts))
        assert counted == {8.0}
        port = int(url.rpartition(":")[2])
        assert tcp_ports_of(process.pid) == {port}
        second, _ = started(
            served, tmp_path, port, subprocess.PIPE, subprocess.PIPE, command=command
        )
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 2
        assert errors.startswith("error: cannot listen on ") and errors.count("\n") == 1
    finally:
        process.kill()
        process.wait()
    assert_none_is_left(tree)
