"""What the proxy promises, with a real nginx in front of small stand-ins for the service."""

import json
import re
import select
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml

from toolkit.xray.reading import MAX_BYTES

CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy" / "nginx"
MIB = 1024 * 1024
NOT_COUNTED = 249_999


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True

    def handle_error(self, *_):
        """Say nothing of a proxy that hangs up: some tests make it."""


class Replica:
    """A stand-in for the service: remembers what it was asked, answers as it is told to."""

    def __init__(self, host="127.0.0.1", port=0):
        self.seen = []
        self.status = 200
        self.headers = {"content-type": "application/json"}
        self.act = lambda _: None
        replica = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self):
                length = int(self.headers.get("content-length", 0))
                replica.seen.append((self.command, self.path, dict(self.headers), length))
                self.rfile.read(length)
                if replica.act(self):
                    self.close_connection = True
                    return
                content = json.dumps({"replica": replica.port}).encode()
                self.send_response(replica.status)
                given = self.headers.get("x-request-id", "")
                for name, value in (replica.headers | {"x-request-id": given}).items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = _answer  # noqa: N815

            def log_message(self, *arguments):
                del arguments

        self._server = _Server((host, port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        """Stop listening, at once."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def replicas():
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Replica())) for _ in range(2)]


@pytest.fixture
def front(proxy, replicas):
    with proxy(*(each.port for each in replicas)) as (url, _, log):
        yield url, log


@pytest.fixture
def client(front):
    with httpx.Client(base_url=front[0], timeout=20) as client:
        yield client


def problem(answer, status, code):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    content = answer.json()
    assert set(content) == {"title", "status", "code", "detail"}
    assert content["status"] == status and content["code"] == code
    assert answer.headers["x-request-id"]
    return content


def asked(replicas):
    return [each for replica in replicas for each in replica.seen]


def test_the_shipped_configuration_is_one_that_nginx_takes(nginx):
    command = [nginx, "-p", f"{CONFIGURATION}/", "-c", "nginx.conf", "-t"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "warn" not in done.stderr, done.stderr


def test_limits_leave_room_for_the_largest_requests_of_the_service():
    text = (CONFIGURATION / "nginx.conf").read_text()
    one, batch = sorted(int(each) for each in re.findall(r"client_max_body_size (\d+)m;", text))
    overhead = 64 * 1024
    assert MAX_BYTES + overhead < one * MIB < 1.2 * MAX_BYTES
    assert 64 * MIB + overhead <= batch * MIB < 70 * MIB


def test_all_bodies_that_may_wait_at_once_fit_into_tmp():
    text = (CONFIGURATION / "nginx.conf").read_text()
    one, batch = sorted(int(each) for each in re.findall(r"client_max_body_size (\d+)m;", text))
    most = {zone: int(count) for zone, count in re.findall(r"limit_conn (\w+) (\d+);", text)}
    held = most["uploads"] * one + most["batches"] * batch
    manifest = (CONFIGURATION / "deployment.yaml").read_text()
    spec = yaml.safe_load(manifest)["spec"]["template"]["spec"]
    (tmp,) = [each["emptyDir"]["sizeLimit"] for each in spec["volumes"] if each["name"] == "tmp"]
    memory = spec["containers"][0]["resources"]["limits"]["memory"]
    tmp, memory = (int(re.fullmatch(r"(\d+)Gi", each)[1]) for each in (tmp, memory))
    assert held < tmp * 1024 and tmp + 1 <= memory
    for said in (text, manifest, (CONFIGURATION.parent / "README.md").read_text()):
        assert f"{held} MiB" in said


def test_bodies_that_are_not_counted_as_uploads_are_held_in_memory(client, tmp_path):
    (tmp_path / "client_body").rmdir()
    assert client.post("/predict", content=bytes(NOT_COUNTED)).status_code == 200
    problem(client.post("/predict", content=bytes(2 * NOT_COUNTED)), 500, "proxy_failed")


def _trickling(url, path, source, stack):
    """Begin an upload of 20 MB, and return once nginx waits for its body."""
    host, port = url.removeprefix("http://").split(":")
    each = stack.enter_context(socket.create_connection((host, int(port)), 20, (source, 0)))
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
    each.sendall(f"{head}Content-Length: {MAX_BYTES}\r\n\r\n".encode())
    assert each.recv(20).startswith(b"HTTP/1.1 100 "), "the upload is refused"


@pytest.mark.parametrize("path", ["/predict", "/predict_batch"])
def test_no_address_nor_all_of_them_may_hold_more_uploads_than_fit(front, replicas, path):
    url = front[0]
    own, every = {"/predict": (16, 48), "/predict_batch": (4, 12)}[path]
    addresses = [f"127.0.0.{index + 2}" for index in range(every // own + 1)]
    with ExitStack() as stack:
        clients = [
            stack.enter_context(
                httpx.Client(transport=httpx.HTTPTransport(local_address=each), base_url=url)
            )
            for each in addresses
        ]
        for address, client in zip(addresses[:-1], clients, strict=False):
            for _ in range(own):
                _trickling(url, path, address, stack)
            problem(client.post(path, content=bytes(MAX_BYTES)), 429, "too_many")
        answer = clients[-1].post(path, content=(bytes(MIB) for _ in range(2)))
        problem(answer, 429, "too_many")
        assert answer.headers["retry-after"] == "1" and not asked(replicas)
        for client in clients:
            assert client.post(path, content=bytes(NOT_COUNTED)).status_code == 200
        other = {"/predict": "/predict_batch", "/predict_batch": "/predict"}[path]
        assert clients[0].post(other, content=bytes(MAX_BYTES)).status_code == 200


@pytest.mark.full
def test_a_large_body_passes_and_a_larger_one_is_a_413_that_no_replica_hears_of(client, replicas):
    assert client.post("/predict", content=bytes(MAX_BYTES)).status_code == 200
    assert client.post("/predict_batch", content=bytes(64 * MIB)).status_code == 200
    assert [each[3] for each in asked(replicas)] == [MAX_BYTES, 64 * MIB]
    problem(client.post("/predict", content=bytes(22 * MIB)), 413, "too_large")
    problem(client.post("/predict_batch", content=bytes(66 * MIB)), 413, "too_large")
    chunks = (bytes(MIB) for _ in range(30))
    problem(client.post("/predict", content=chunks), 413, "too_large")
    assert len(asked(replicas)) == 2


@pytest.mark.full
def test_a_slow_upload_reaches_no_replica_before_its_end(proxy, replicas):
    replica = replicas[0]
    # One process for both clients, so that it has seen the first when it answers the second.
    changes = {"worker_processes 2": "worker_processes 1"}
    with proxy(replica.port, changes=changes) as (url, *_):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
            for _ in range(20):
                assert httpx.get(f"{url}/info").status_code == 200
            assert not select.select([slow], [], [], 0)[0]
            assert [each[0] for each in replica.seen] == ["GET"] * 20
            slow.sendall(b"cd")
            assert slow.recv(20).startswith(b"HTTP/1.1 200")
    assert [each[0] for each in replica.seen[20:]] == ["POST"]


@pytest.mark.full
def test_a_body_that_stops_coming_is_ended(proxy, replicas):
    changes = {"client_body_timeout 15s": "client_body_timeout 1s"}
    with proxy(replicas[0].port, changes=changes) as (url, *_):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
            with pytest.raises(ConnectionResetError):
                slow.recv(10_000)
    assert not replicas[0].seen


@pytest.mark.parametrize(
    "path",
    [
        *("/metrics", "/metrics/", "/metrics?a=1", "//metrics", "/%6detrics", "/a/../metrics"),
        *("/./metrics", "/a%2f..%2fmetrics", "/metrics%3fa", "/metrics;a"),
    ],
)
def test_metrics_are_not_to_be_had_from_outside(front, replicas, path):
    host, port = front[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(10_000), b""))
    assert answer.startswith(b"HTTP/1.1 404 ") and b"no_such_route" in answer
    assert b"application/problem+json" in answer and not asked(replicas)


def logged(log, count):
    """The first lines of the access log, once there are so many."""
    end = time.monotonic() + 20
    while True:
        # What cannot be read or written is told between them.
        found = [line for line in log.read_text().splitlines(True) if line.startswith("{")]
        if len(found) >= count and found[-1].endswith("\n"):
            return [json.loads(line) for line in found]
        assert time.monotonic() < end, found
        time.sleep(0.02)


def test_the_log_has_neither_query_nor_file_name(client, front):
    client.get("/info?patient=Doe", headers={"x-request-id": "abc-1"})
    client.post("/predict?patient=Doe", files={"xray": ("Doe.png", bytes(300_000))})
    client.get("/metrics?patient=Doe")
    client.post("/predict?patient=Doe", content=bytes(22 * MIB))
    lines, text = logged(front[1], 4), front[1].read_text()
    assert "Doe" not in text and "?" not in text
    assert [each["status"] for each in lines] == [200, 200, 404, 413]
    assert [each["method"] for each in lines] == ["GET", "POST", "GET", "POST"]
    assert lines[0]["id"] == "abc-1" and lines[0]["path"] == "/info"


def test_the_request_id_is_passed_on_and_one_that_is_no_word_replaced(client, replicas):
    for given, passes in {"knee-7.a_b": True, 'a"b c': False, "x" * 65: False}.items():
        answer = client.get("/info", headers={"x-request-id": given})
        (seen,) = [each[2]["X-Request-Id"] for each in asked(replicas)][-1:] or [None]
        assert answer.headers.get_list("x-request-id") == [seen]
        assert (seen == given) is passes
        for replica in replicas:
            replica.seen.clear()
    answer = client.get("/metrics", headers={"x-request-id": "mine"})
    assert answer.headers.get_list("x-request-id") == ["mine"]


@pytest.mark.parametrize("fault", ["gone", "hangs up", "503"])
def test_a_replica_that_fails_costs_no_request(client, replicas, fault):
    broken = replicas[0]
    if fault == "gone":
        broken.close()
    elif fault == "503":
        broken.status = 503
    else:
        broken.act = lambda _: True
    answers = [client.post("/predict", content=b"knee") for _ in range(20)]
    assert [each.status_code for each in answers] == [200] * 20
    assert {each.json()["replica"] for each in answers} == {replicas[1].port}
    assert len(replicas[1].seen) == 20


def test_overload_does_not_become_an_outage(client, replicas):
    for each in replicas:
        each.status = 503
    for _ in range(20):
        answer = client.post("/predict", content=b"knee")
        assert answer.status_code == 503 and "replica" in answer.json()
    for each in replicas:
        each.status = 200
    assert client.post("/predict", content=b"knee").status_code == 200


def _dns(answers):
    """Serve on a UDP port: an A record for each of `answers`; return the port."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))

    def serve():
        while True:
            query, address = server.recvfrom(512)
            question = query[12 : query.index(b"\0", 12) + 5]
            kind = int.from_bytes(question[-4:-2])
            found = [socket.inet_aton(each) for each in answers] if kind == 1 else []
            counts = b"\0\1" + len(found).to_bytes(2) + bytes(4)
            records = b"".join(b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + each for each in found)
            server.sendto(query[:2] + b"\x81\x80" + counts + question + records, address)

    threading.Thread(target=serve, daemon=True).start()
    return server.getsockname()[1]


@pytest.mark.full
def test_in_a_cluster_the_replicas_are_those_that_its_dns_names(proxy):
    with closing(Replica("127.0.0.2")) as one, closing(Replica("127.0.0.3", one.port)) as other:
        answers = ["127.0.0.2", "127.0.0.3"]
        text = (CONFIGURATION / "cluster" / "replicas.conf").read_text()
        for old, new in {
            "kube-dns.kube-system.svc.cluster.local": f"127.0.0.1:{_dns(answers)}",
            "valid=2s": "valid=1s",
            "cluster.local:3000": f"cluster.local:{one.port}",
        }.items():
            assert old in text
            text = text.replace(old, new)
        with proxy(text) as (url, *_), httpx.Client(base_url=url, timeout=20) as client:
            for _ in range(40):
                assert client.post("/predict?a=1", content=b"knee").status_code == 200
            assert one.seen and other.seen
            assert {each[1] for each in one.seen} == {"/predict?a=1"}
            one.close()
            for _ in range(10):
                assert client.post("/predict", content=b"knee").status_code == 200
            answers.clear()
            end = time.monotonic() + 20
            while (answer := client.post("/predict", content=b"knee")).status_code == 200:
                assert time.monotonic() < end
            problem(answer, 502, "no_replica")


def test_a_request_is_tried_at_two_replicas_and_no_more(proxy, replicas):
    with closing(Replica()) as third:
        every = [*replicas, third]
        for each in every:
            each.status, each.headers = 503, each.headers | {"retry-after": "7"}
        with proxy(*(each.port for each in every)) as (url, *_):
            answer = httpx.post(f"{url}/predict", content=b"knee", timeout=20)
        assert len(asked(every)) == 2
        # The service's own answer, as it stands.
        assert answer.status_code == 503 and "replica" in answer.json()
        assert answer.headers.get_list("retry-after") == ["7"]


def test_no_replica_at_all_is_a_502_problem_that_says_when_to_ask_again(client, replicas):
    for each in replicas:
        each.close()
    answer = client.post("/predict", content=b"knee")
    problem(answer, 502, "no_replica")
    assert answer.headers.get_list("retry-after") == ["1"]


@pytest.mark.parametrize("path", ["/predict", "/predict_batch"])
@pytest.mark.parametrize("code", ["no_replica", "no_answer", "proxy_failed"])
def test_a_proxys_failure_is_a_problem_however_large_the_body(
    proxy, replicas, tmp_path, path, code
):
    replica, ended = replicas[0], threading.Event()
    replica.act = lambda _: ended.wait(30)
    changes = {"proxy_read_timeout 30s": "proxy_read_timeout 1s"}
    size = {"/predict": MAX_BYTES, "/predict_batch": 64 * MIB}[path]
    try:
        with proxy(replica.port, changes=changes) as (url, _, log):
            if code == "no_replica":
                replica.close()
            if code == "proxy_failed":
                (tmp_path / "client_body").rmdir()
            answer = httpx.post(f"{url}{path}", content=bytes(size), timeout=20)
            (line,) = logged(log, 1)
    finally:
        ended.set()
    status = {"no_replica": 502, "no_answer": 504, "proxy_failed": 500}[code]
    problem(answer, status, code)
    assert (line["method"], line["path"], line["status"]) == ("POST", path, status)


@pytest.mark.full
def test_replicas_that_do_not_answer_are_a_504_problem(proxy, replicas):
    ended = threading.Event()
    for each in replicas:
        each.act = lambda _: ended.wait(30)
    try:
        with proxy(
            *(each.port for each in replicas),
            changes={"proxy_read_timeout 30s": "proxy_read_timeout 1s"},
        ) as (url, *_):
            answer = httpx.post(f"{url}/predict", content=b"knee", timeout=20)
    finally:
        ended.set()
    problem(answer, 504, "no_answer")
    assert answer.headers["retry-after"] == "1"


def test_the_services_own_refusals_pass_unchanged(client, replicas):
    for status in (400, 401, 404, 413, 415, 422, 429, 500, 504):
        for each in replicas:
            each.status = status
            each.headers = {"content-type": "application/problem+json", "retry-after": "9"}
        answer = client.post("/predict", content=b"knee")
        assert answer.status_code == status and "replica" in answer.json()
        assert answer.headers.get_list("retry-after") == ["9"]
        assert len(answer.headers.get_list("x-request-id")) == 1


def test_one_address_has_64_requests_at_once_and_others_are_still_served(front, replicas):
    ended = threading.Event()
    for each in replicas:
        each.act = lambda handler: "wait" in handler.path and ended.wait(20) is None
    host, port = front[0].removeprefix("http://").split(":")
    with ExitStack() as stack:
        for _ in range(64):
            each = stack.enter_context(socket.create_connection((host, int(port))))
            each.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        end = time.monotonic() + 20
        while len(asked(replicas)) < 64:
            assert time.monotonic() < end
            time.sleep(0.01)
        answer = httpx.get(f"{front[0]}/info")
        problem(answer, 429, "too_many")
        assert answer.headers["retry-after"] == "1"
        transport = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(transport=transport) as other:
            assert other.get(f"{front[0]}/info").status_code == 200
        ended.set()


def test_a_long_address_or_header_is_a_431_problem(client, replicas):
    problem(client.get("/info?" + "a" * 9000), 431, "long_header")
    problem(client.get("/info", headers={"x-long": "a" * 9000}), 431, "long_header")
    assert not asked(replicas)


def test_the_proxys_own_probe_does_not_depend_on_replicas(proxy, replicas):
    with proxy(replicas[0].port) as (_, probes, _):
        replicas[0].close()
        assert httpx.get(f"http://127.0.0.1:{probes}/livez").status_code == 204
        assert httpx.get(f"http://127.0.0.1:{probes}/predict").status_code == 404
