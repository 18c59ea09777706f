"""The process that minds the workers, and who may ask it for anything."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

NOBODY = 65534
# Asks each address for the list of watchers, as the user that is given; prints what is answered.
ASK = """
import json, os, sys, zmq
if int(sys.argv[1]) != os.getuid():
    os.setgroups([]), os.setgid(int(sys.argv[1])), os.setuid(int(sys.argv[1]))
asked = zmq.Context().socket(zmq.DEALER)
asked.setsockopt(zmq.LINGER, 0)
asked.setsockopt(zmq.IDENTITY, b"a")
for address in sys.argv[2:]:
    asked.connect(address)
for _ in sys.argv[2:]:
    asked.send(json.dumps({"id": "1", "command": "list", "properties": {}}).encode())
print(asked.recv_multipart()[-1].decode() if asked.poll(2000) else "no answer")
"""


def tcp_ports_of(process):
    """Ports of IPv4 and IPv6 on which a process listens."""
    held = {os.readlink(each) for each in Path(f"/proc/{process}/fd").iterdir()}
    lines = [
        line.split()
        for kind in ("tcp", "tcp6")
        for line in Path(f"/proc/{process}/net/{kind}").read_text().splitlines()[1:]
    ]
    return {
        int(line[1].rpartition(":")[2], 16)
        for line in lines
        if line[3] == "0A" and f"socket:[{line[9]}]" in held
    }


def unix_paths_of(process):
    """Paths of the sockets on which a process listens."""
    held = {os.readlink(each) for each in Path(f"/proc/{process}/fd").iterdir()}
    lines = [line.split() for line in Path(f"/proc/{process}/net/unix").read_text().splitlines()]
    return [Path(line[7]) for line in lines if len(line) > 7 and f"socket:[{line[6]}]" in held]


@pytest.fixture
def service(served, serving, tmp_path):
    with serving(served, tmp_path, TOOLKIT_WORKERS="1") as found:
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
def test_arbiter_listens_on_the_services_port_and_in_a_folder_of_its_own(service):
    process, url, _ = service
    assert tcp_ports_of(process.pid) == {int(url.rpartition(":")[2])}
    paths = unix_paths_of(process.pid)
    (folder,) = {path.parent for path in paths}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.stat().st_uid == os.getuid()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not folder.exists()
