"""What one connection may do to a worker: the real service, and uvicorn in this process."""

import asyncio
import errno
import io
import json
import os
import re
import socket
import struct
import time
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from bento.http.exchange import Call
from bento.http.reply import Reply
from bento.http.upload import Memory
from bento.worker.counters import Metrics, share
from bento.worker.log import Log

HEAD = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
PNG = {"content-type": "image/png"}
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: websocket\r\nHTTP2-Settings: AAA\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def service(served, serving, tmp_path_factory):
    with serving(served, tmp_path_factory.mktemp("home"), TOOLKIT_WORKERS="1") as running:
        yield running


@pytest.fixture
def connected(service):
    """Return a function that opens a connection to the service."""
    opened = []

    def connect():
        host, port = service[1].removeprefix("http://").split(":")
        opened.append(socket.create_connection((host, int(port)), timeout=30))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


def _answers(connection, count):
    """Statuses of so many answers."""
    content, statuses = b"", []
    while len(statuses) < count:
        while not (head := re.search(rb"HTTP/1.1 (\d+) .*?\r\n\r\n", content, re.DOTALL)):
            content += _more(connection)
        end = head.end() + int(re.search(rb"content-length: (\d+)", head[0])[1])
        while len(content) < end:
            content += _more(connection)
        statuses.append(int(head[1]))
        content = content[end:]
    return statuses


def _more(connection):
    more = connection.recv(100_000)
    assert more, "the connection ended"
    return more


def test_request_that_asks_for_another_protocol_is_answered_as_any_is(connected, encoded, xrays):
    png = encoded(xrays[0])
    length = b"Content-Length: %d\r\n" % len(png)
    chunks = b"%x\r\n%s\r\n0\r\na: b\r\n\r\n" % (len(png), png)
    requests = [
        b"GET /livez HTTP/1.1\r\nHost: a\r\n" + UPGRADE + b"\r\n",
        HEAD + length + UPGRADE + b"\r\n" + png,
        HEAD + UPGRADE.replace(b"websocket", b"h2c") + length + b"\r\n" + png,
        HEAD + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n" + chunks,
    ]
    with connected() as connection:
        connection.sendall(b"".join(requests * 2))
        assert _answers(connection, 8) == [200] * 8
        for part in (requests[1][:50], requests[1][50:-9], requests[1][-9:]):
            connection.sendall(part)
        assert _answers(connection, 1) == [200]
    with connected() as connection:
        connection.sendall(b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert _answers(connection, 1) == [400]


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000, b"431"), (b"\x16\x03\x01 no\r\n", b"400")],
    ids=["endless", "none"],
)
def test_head_that_never_ends_and_no_http_at_all_are_refused_with_a_problem(
    connected, content, status
):
    with connected() as connection:
        connection.sendall(content)
        answer = connection.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 " + status + b" "), answer[:100]
    assert b"application/problem+json" in answer and b"x-request-id: " in answer


def test_connection_that_reads_no_answers_and_asks_for_websocket_stops_no_worker(
    service, connected
):
    def answered():
        text = httpx.get(f"{service[1]}/metrics", timeout=10).text
        found = re.search(r'route="docs",status="200"} (\d+)', text)
        return int(found[1]) if found else 0

    with connected() as connection:
        get = b"GET /docs.json HTTP/1.1\r\nHost: a\r\n"
        connection.sendall((get + b"\r\n") * 1000)
        before, now = -1, 0
        while now != before or not now:
            before, now = now, answered()
        connection.sendall(get + UPGRADE + b"\r\n")
        # Connections are looked at every second.
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            assert httpx.get(f"{service[1]}/livez", timeout=10).status_code == 200


@asynccontextmanager
async def _uvicorn(listener, metrics, taken, body=b""):
    """A uvicorn.Server in this process, with the limits on its connections.

    It answers 200 with `body`, and notes itself in `taken` once that is taken.
    """
    import uvicorn

    from bento.http import connections

    async def application(scope, receive, send):
        await Call(scope, receive, Memory()).answer(send, Reply(200, body))
        taken.append(server)

    config = uvicorn.Config(application, log_config=None, lifespan="off")
    config.load()
    server = uvicorn.Server(config)
    watch = connections.protect(server, application, metrics, metrics.alive)
    serving = asyncio.create_task(server.serve([listener.dup()]))
    while not server.started:
        await asyncio.sleep(0)
    yield server
    server.should_exit = True
    watch.cancel()
    await serving


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


async def _asked(listener):
    """Ask over a connection of its own."""
    url = "http://{}:{}".format(*listener.getsockname())
    async with httpx.AsyncClient(timeout=30) as client:
        assert (await client.get(url)).status_code == 200


def test_connection_that_cannot_be_checked_keeps_none_from_being_taken(listener):
    class Broken:
        checked = 0

        def check(self, now):
            del now
            self.checked += 1
            raise AttributeError("check")

    async def run():
        said = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: said.append(what))
        async with _uvicorn(listener, Metrics((), ()), []) as server:
            broken = Broken()
            server.server_state.connections.add(broken)
            while broken.checked < 2:
                await _asked(listener)
            server.server_state.connections.remove(broken)
        assert isinstance(said[0]["exception"], AttributeError)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_connection_that_cannot_be_taken_is_told_of(listener, monkeypatch):
    log = io.StringIO()
    lines = Log(log)

    async def run():
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        loop.set_exception_handler(lambda *error: (lines.unhandled(*error), told.set()))

        async def refuse(*_, **__):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))

        async with _uvicorn(listener, Metrics((), ()), []):
            await _asked(listener)
            with monkeypatch.context() as lacking, socket.create_connection(listener.getsockname()):
                lacking.setattr(loop, "connect_accepted_socket", refuse)
                await told.wait()
            await _asked(listener)

    asyncio.run(asyncio.wait_for(run(), 60))
    lines.start()
    lines.stop()
    said = json.loads(log.getvalue())
    assert said["message"] == "a connection could not be taken"
    assert "FileExistsError" in said["traceback"]


@pytest.mark.parametrize("is_read", [False, True])
def test_answer_is_in_hand_until_it_is_taken_and_given_up_where_nothing_of_it_is(
    listener, monkeypatch, is_read
):
    monkeypatch.setattr("bento.http.connections._UNREAD_S", 1.5)
    body, taken = bytes(20_000_000), []

    async def run():
        async with _uvicorn(listener, Metrics((), ()), taken, body) as server:
            reader, writer = await asyncio.open_connection(*listener.getsockname(), limit=1000)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ") and not taken
            if not is_read:
                while server.server_state.connections:
                    await asyncio.sleep(0.05)
                return
            left = len(body)
            # Longer than an answer may lie there, and some of it every second.
            while left:
                left -= len(await reader.readexactly(min(left, 5_000_000)))
                assert left == 0 or not taken
                await asyncio.sleep(0.6)
            assert taken

    asyncio.run(asyncio.wait_for(run(), 60))


def test_connections_go_to_the_workers_that_are_ready_and_to_any_while_none_is(
    listener, monkeypatch
):
    ((variable, place),) = share().items()
    monkeypatch.setenv(variable, place)
    told = [Metrics((), (), worker, 2) for worker in range(2)]

    async def takers(*ready):
        for each, is_ready in zip(told, ready, strict=True):
            each.set("ready", float(is_ready))
        taken.clear()
        for _ in range(8):
            await _asked(listener)
        assert len(taken) == 8
        return set(taken)

    async def run():
        for each in told:
            each.set("ready", 1.0)
        assert told[0].ready_workers() == 0, "one counts as ready that does not listen yet"
        async with (
            _uvicorn(listener, told[0], taken) as first,
            _uvicorn(listener, told[1], taken) as second,
        ):
            while told[0].ready_workers() < 2:
                await asyncio.sleep(0)
            assert await takers(True, False) == {first}
            assert await takers(False, True) == {second}
            assert await takers(False, False) <= {first, second}

    taken = []
    asyncio.run(asyncio.wait_for(run(), 60))
    os.close(int(place))


def test_trailers_of_a_chunked_body_are_left_out_and_the_body_is_answered(
    connected, encoded, xrays
):
    png = encoded(xrays[0])
    end = b"0\r\n" + b"content-type: text/plain\r\n" * 100 + b"\r\n"
    with connected() as connection:
        connection.sendall((CHUNKED + b"%x\r\n%s\r\n" % (len(png), png) + end) * 2)
        assert _answers(connection, 2) == [200, 200]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc to look into")
@pytest.mark.parametrize("line", [b"a:b\r\n", b"v" * 100])
def test_endless_trailers_are_refused_and_take_no_memory(service, connected, processes_below, line):
    def peak():
        texts = [Path(f"/proc/{each}/status").read_text() for each in processes_below(worker)]
        return max(int(each.partition("VmHWM:")[2].split()[0]) for each in texts)

    worker = service[0].pid
    before = peak()
    with connected() as connection:
        connection.sendall(CHUNKED + b"1\r\nx\r\n0\r\na: ")
        assert _push(connection, line * (1_000_000 // len(line))) < 30
    assert peak() < before + 20_000
    with connected() as connection:
        connection.sendall(CHUNKED + b"1\r\nx\r\n0\r\na: ")
        _push(connection, line * (40_000 // len(line)))
        assert _answers(connection, 1) == [431]


def _push(connection, content, times=60):
    """Send it again and again until the other end has had enough; return how often."""
    for sent in range(times):
        try:
            connection.sendall(content)
        except (BrokenPipeError, ConnectionResetError):
            return sent
    return times


def test_chunk_that_says_more_and_more_of_itself_is_refused(connected):
    with connected() as connection:
        connection.sendall(CHUNKED + b"1;")
        _push(connection, b"e" * 40_000)
        assert _answers(connection, 1) == [431]


def test_large_body_and_the_next_request_may_come_in_one_piece(connected, encoded, xrays):
    png = encoded(xrays[0]) + bytes(150_000)
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(png) + png
    with connected() as connection:
        connection.sendall(request + request[:40])
        assert _answers(connection, 1) == [200]
        connection.sendall(request[40:])
        assert _answers(connection, 1) == [200]


@pytest.fixture
def busy(service, encoded, xrays):
    """Return a batch that takes a second or so, and what the service's log has of batches."""
    large = encoded(np.kron(xrays[0], np.ones((14, 14), np.uint8)))
    files = [("xray", ("a", large))] * 12
    batch = httpx.Request("POST", "http://a/predict_batch", files=files)
    head = b"".join(b"%s: %s\r\n" % each for each in batch.headers.raw)
    request = b"POST /predict_batch HTTP/1.1\r\n" + head + b"\r\n" + batch.read()

    def logged():
        lines = [json.loads(x) for x in service[2].read_text().splitlines() if x[-1:] == "}"]
        return [line for line in lines if line.get("route") == "predict_batch"]

    return request, logged


NEXT = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("is_reset", "after"),
    [(False, b""), pytest.param(True, b"", marks=pytest.mark.full), (True, NEXT)],
    ids=["ended", "reset", "two"],
)
def test_work_of_a_client_that_is_gone_is_not_done_to_its_end(
    service, connected, busy, encoded, xrays, is_reset, after
):
    request, logged = busy
    png, before, gone = encoded(xrays[0]), len(logged()), [connected() for _ in range(3)]

    def ask():
        answer = httpx.post(f"{service[1]}/predict", content=png, headers=PNG, timeout=30)
        assert answer.status_code == 200

    for connection in gone:
        connection.sendall(request + after)
    # The batches are in the worker's hands when it answers.
    ask()
    for connection in gone:
        if is_reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    while len(logged()) < before + len(gone):
        ask()
    assert {line.get("code") for line in logged()[before:]} == {"cancelled"}


def test_client_that_ended_its_side_gets_its_answers(connected, busy, encoded, xrays):
    png = encoded(xrays[0])
    quick = HEAD + b"Content-Length: %d\r\n\r\n" % len(png) + png
    for requests in ([quick], [quick] * 3, [busy[0]], [quick, busy[0], quick]):
        with connected() as connection:
            connection.sendall(b"".join(requests))
            connection.shutdown(socket.SHUT_WR)
            content = b"".join(iter(lambda: connection.recv(100_000), b""))
        assert content.count(b"HTTP/1.1 200 OK\r\n") == len(requests)
        assert content.endswith(b"}")
    with connected() as connection:
        connection.sendall(quick[:-1])
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
