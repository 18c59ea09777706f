"""The proxy in front of two real services: one killed, and many slow clients."""

import io
import os
import signal
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from PIL import Image

from toolkit.model.files import ModelFiles
from toolkit.xray.synthetic import generate

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 120.0
SLOW, CLIENTS = 100, 4


@pytest.fixture
def services(serving, tmp_path):
    """Two services with one worker each, ready: their processes and ports."""
    files = ModelFiles(ROOT / "saved_models", "model_saved")
    with ExitStack() as stack:
        homes = [tmp_path / f"home-{each}" for each in range(2)]
        for each in homes:
            each.mkdir()
        both = [stack.enter_context(serving(files, home, TOOLKIT_WORKERS="1")) for home in homes]
        yield [each[0] for each in both], [int(each[1].rpartition(":")[2]) for each in both]


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
def test_killing_a_replica_under_load_loses_no_request(proxy, services, xray, processes_below):
    processes, ports = services
    with proxy(*ports) as (url, *_):
        threads, answers = _load(url, xray, 60)
        end = time.monotonic() + DEADLINE_S
        while len(answers) < 60:
            assert time.monotonic() < end
            time.sleep(0.005)
        for each in processes_below(processes[0].pid):
            os.kill(each, signal.SIGKILL)
        processes[0].wait()
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
