"""The proxy in front of two real services: one killed, and many slow clients."""

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from PIL import Image

from toolkit.synthetic import generate

ROOT = Path(__file__).resolve().parents[2]
BENTOML = Path(sys.executable).with_name("bentoml")
DEADLINE_S = 120.0
SLOW, CLIENTS = 100, 4


def _kill(process):
    """End a service at once, and its workers: they lead process groups of their own."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    family = [process.pid]
    for each in family:
        family += [child for child, parent in parents.items() if parent == each]
    for each in family:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    process.wait()


@contextmanager
def _serving(port, home):
    """Start a service with one worker; yield its process at once, and end it afterwards."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TOOLKIT_", "BENTOML_"))}
    home.mkdir()
    with (home / "log").open("wb") as out:
        process = subprocess.Popen(
            [BENTOML, "serve", "--host", "127.0.0.1", "--port", str(port)],
            cwd=ROOT,
            env=clean | {"BENTOML_HOME": str(home), "TOOLKIT_WORKERS": "1"},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            _kill(process)


@pytest.fixture
def services(free_port, tmp_path):
    """Two running services: their processes and ports."""
    with ExitStack() as stack:
        ports = [free_port() for _ in range(2)]
        processes = [
            stack.enter_context(_serving(port, tmp_path / f"home-{port}")) for port in ports
        ]
        end = time.monotonic() + DEADLINE_S
        for process, port in zip(processes, ports, strict=True):
            while not _ready(port):
                log = (tmp_path / f"home-{port}" / "log").read_text()
                assert process.poll() is None and time.monotonic() < end, log
                time.sleep(0.1)
        yield processes, ports


def _ready(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def xray():
    """One generated X-ray as a multipart body, and its content type."""
    (drawn,) = generate(1, seed=5)
    stream = io.BytesIO()
    Image.fromarray(drawn.pixels).save(stream, "PNG")
    request = httpx.Request("POST", "http://a", files={"xray": ("knee.png", stream.getvalue())})
    return request.read(), request.headers["content-type"]


def _ask(url, xray, count, answers):
    body, kind = xray
    with httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(count):
            answers.append(client.post("/predict", content=body, headers={"content-type": kind}))


def _load(url, xray, count):
    """Start CLIENTS threads of `count` requests; return them and the list of answers."""
    answers = []
    threads = [
        threading.Thread(target=_ask, args=(url, xray, count, answers)) for _ in range(CLIENTS)
    ]
    for each in threads:
        each.start()
    return threads, answers


@pytest.mark.full
def test_killing_a_replica_under_load_loses_no_request(proxy, services, xray):
    processes, ports = services
    with proxy(*ports) as (url, *_):
        threads, answers = _load(url, xray, 60)
        end = time.monotonic() + DEADLINE_S
        while len(answers) < 60:
            assert time.monotonic() < end
            time.sleep(0.005)
        _kill(processes[0])
        before = len(answers)
        for each in threads:
            each.join(DEADLINE_S)
        assert before < 200, "it was killed under load"
        assert [each.status_code for each in answers] == [200] * 60 * CLIENTS
        assert len({each.json()["class"] for each in answers}) == 1
        assert not _ready(ports[0]) and _ready(ports[1])


def _slow_clients(url, xray, stack):
    """Connect SLOW clients from ten addresses; each has sent its header and half its body."""
    host, port = url.removeprefix("http://").split(":")
    body, kind = xray
    head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\n"
    head += f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    clients = []
    for index in range(SLOW):
        source = (f"127.0.1.{index % 10 + 1}", 0)
        each = stack.enter_context(socket.create_connection((host, int(port)), 30, source))
        each.sendall(head.encode() + body[: len(body) // 2])
        clients.append(each)
    return clients


def _goodput(url, xray, count):
    """Requests in a second of CLIENTS good clients."""
    start = time.monotonic()
    threads, answers = _load(url, xray, count)
    for each in threads:
        each.join(DEADLINE_S)
    taken = time.monotonic() - start
    assert [each.status_code for each in answers] == [200] * count * CLIENTS
    return count * CLIENTS / taken


@pytest.mark.full
def test_a_hundred_slow_clients_cost_the_good_ones_nothing(proxy, services, xray):
    body = xray[0]
    alone, beside = [], []
    with proxy(*services[1]) as (url, *_):
        _goodput(url, xray, 5)
        # In turn, since the machine has other work, and may have more of it at one time.
        for _ in range(3):
            alone.append(_goodput(url, xray, 25))
            with ExitStack() as stack:
                slow = _slow_clients(url, xray, stack)
                beside.append(_goodput(url, xray, 25))
                for each in slow:
                    each.sendall(body[len(body) // 2 :])
                assert all(each.recv(12) == b"HTTP/1.1 200" for each in slow)
    ratio = sum(beside) / sum(alone)
    print(f"goodput alone {alone}, beside {SLOW} slow clients {beside}, ratio {ratio:.2f}")
    assert ratio > 0.7
