"""What an attacker or chance does to a service, on this machine and in an image alike."""

import json
import os
import signal
import socket
import time
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path

import httpx
import numpy as np

RAW = {"content-type": "image/png"}
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
# As sitecustomize.py: workers without a sign of life are replaced soon.
QUICK = "import bento.watch\nbento.watch.LOOKS = 3\n"


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


def is_running(process):
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def assert_none_is_left(processes):
    """Wait until these processes have ended; kill what has not."""
    end = time.monotonic() + 20
    left = processes
    while left and time.monotonic() < end:
        time.sleep(0.05)
        left = [each for each in left if is_running(each)]
    for each in left:
        os.kill(each, signal.SIGKILL)
    assert not left


def assert_answered(url, png):
    """Ask for an X-ray."""
    answer = httpx.post(f"{url}/predict", content=png, headers=RAW, timeout=10)
    assert answer.status_code == 200, answer.text


def await_whole(url):
    """Wait until every worker answers."""
    end = time.monotonic() + 60
    while not httpx.get(f"{url}/readyz", timeout=30).json().get("whole"):
        assert time.monotonic() < end, httpx.get(f"{url}/readyz").text
        time.sleep(0.05)


def freeze_until_replaced(worker, url, png, processes):
    """Stop a worker until another takes its place; X-rays are answered all the while.

    `processes` returns the ids of what is there now.
    """
    os.kill(worker, signal.SIGSTOP)
    seen_broken = False
    end = time.monotonic() + 60
    while worker in processes():
        assert time.monotonic() < end
        assert_answered(url, png)
        seen_broken |= not httpx.get(f"{url}/readyz").json()["whole"]
    assert seen_broken
    await_whole(url)


def leave_answers_unread(url, model, worker, png, count=8):
    """Ask for answers of some 10 MB and read none, until the worker has its memory back.

    X-rays are answered all the while; the first of those answers is not whole when it is read at
    last.
    """
    pixels = np.random.default_rng(1).integers(0, 256, (64, 224, 224), np.uint8)
    size = {"binary_data_size": pixels.size}
    tensor = {"name": "xray", "datatype": "UINT8", "shape": pixels.shape, "parameters": size}
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "edge_map"}]}).encode()
    body, path = head + pixels.tobytes(), f"/v2/models/{model}/infer"
    headers = {"inference-header-content-length": str(len(head))}

    def held():
        text = Path(f"/proc/{worker}/status").read_text()
        return 1024 * int(text.partition("VmRSS:")[2].split()[0])

    answer = httpx.post(url + path, content=body, headers=headers, timeout=60)
    assert answer.status_code == 200
    host, port = url.removeprefix("http://").split(":")
    connections, before = [], held()
    for _ in range(count):
        connections.append(HTTPConnection(host, int(port)))
        connections[-1].sock = asking = socket.socket()
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asking.settimeout(60)
        asking.connect((host, int(port)))
        connections[-1].request("POST", path, body, headers)
        # The answer has begun to come.
        assert asking.recv(1, socket.MSG_PEEK)
    more = held() - before
    assert more > count * len(answer.content) / 2
    end = time.monotonic() + 60
    while held() - before > more / 3:
        assert time.monotonic() < end, "answers that nobody reads stay"
        assert_answered(url, png)
    assert not is_whole(connections[0])
    for each in connections:
        each.close()


def is_whole(connection):
    """Read an answer to its end, and say whether all of it came."""
    try:
        connection.getresponse().read()
    except (IncompleteRead, ConnectionError):
        return False
    return True
