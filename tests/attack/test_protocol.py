"""What is no request, or hardly one: each gets an answer or an end, soon, and harms nobody else."""

import json
import re
import socket
import threading
import time
import zlib
from pathlib import Path

import httpx
import pytest

HOST = b"Host: a\r\n"
POST = b"POST /predict HTTP/1.1\r\n" + HOST
RAW = POST + b"Content-Type: image/png\r\n"
LONG = b"a" * 70_000
SLOWEST_S = 15.0
"""Longer than any limit on what comes slowly, none of which is tried here."""


def body(content, head=RAW, **headers):
    """A POST with a content-length."""
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return head + more.encode() + b"Content-Length: %d\r\n\r\n" % len(content) + content


def chunked(content, head=RAW):
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + content


def form(content, kind="multipart/form-data; boundary=b"):
    return body(content, POST, content_type=kind)


def part(content, disposition='name="xray"; filename="a"', more=b""):
    return b"--b\r\nContent-Disposition: form-data; %s\r\n%s\r\n%s\r\n" % (
        disposition.encode(),
        more,
        content,
    )


def infer(content, length=None, path="small"):
    """A request of the Open Inference Protocol."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = b"POST /v2/models/%s/infer HTTP/1.1\r\n" % path.encode() + HOST
    return body(
        text, head, **({} if length is None else {"inference_header_content_length": length})
    )


def tensor(shape, data=None, datatype="UINT8", **parameters):
    found = {"name": "xray", "datatype": datatype, "shape": shape, "parameters": parameters}
    return {"inputs": [found | ({} if data is None else {"data": data})]}


HEADS = {
    "nothing": b"",
    "a blank line": b"\r\n" * 100,
    "zeros": bytes(5_000),
    "a greeting of TLS": bytes.fromhex("16030100a5010000a10303") + bytes(160),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "HTTP/9.9": b"GET /livez HTTP/9.9\r\n\r\n",
    "HTTP/1.0": b"GET /livez HTTP/1.0\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /livez HTTP/1.1\r\n" + HOST * 2 + b"\r\n",
    "bare line feeds": b"GET /livez HTTP/1.1\nHost: a\n\n",
    "bare carriage returns": b"GET /livez HTTP/1.1\rHost: a\r\r",
    "a long target": b"GET /" + LONG + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a long method": LONG + b" / HTTP/1.1\r\n" + HOST + b"\r\n",
    "a long header": b"GET / HTTP/1.1\r\n" + HOST + b"A: " + LONG + b"\r\n\r\n",
    "a long name": b"GET / HTTP/1.1\r\n" + HOST + LONG + b": a\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + HOST + b"a: b\r\n" * 20_000 + b"\r\n",
    "a folded header": b"GET /livez HTTP/1.1\r\n" + HOST + b"a: b\r\n c\r\n\r\n",
    "a blank before the colon": b"GET /livez HTTP/1.1\r\nHost : a\r\n\r\n",
    "no name": b"GET /livez HTTP/1.1\r\n: a\r\n\r\n",
    "a zero in a header": b"GET /livez HTTP/1.1\r\n" + HOST + b"a: \0\r\n\r\n",
    "a zero in the target": b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "bytes beyond ASCII": b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"a: \xff\r\n\r\n",
    "escapes that are none": b"GET /%zz%f HTTP/1.1\r\n" + HOST + b"\r\n",
    "a proxy's request": b"CONNECT a:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a star": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "another's address": b"GET http://example.org/livez HTTP/1.1\r\n" + HOST + b"\r\n",
    "WebSocket": b"GET /livez HTTP/1.1\r\n"
    + HOST
    + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "a request id of lines": b"GET /livez HTTP/1.1\r\n" + HOST + b"X-Request-Id: a\tb\r\n\r\n",
    "many at once": (b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n") * 2_000,
    "and nonsense behind": b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n" + bytes(10_000),
}
BODIES = {
    "two lengths": RAW + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length and chunks": chunked(b"0\r\n\r\n", RAW + b"Content-Length: 5\r\n"),
    "chunks of another coding": RAW + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks, not at last": RAW + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunks, misspelt": RAW + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a length below none": RAW + b"Content-Length: -1\r\n\r\n",
    "a length with a sign": RAW + b"Content-Length: +1\r\n\r\na",
    "a length of 20 digits": RAW + b"Content-Length: 99999999999999999999\r\n\r\n",
    "a length of many digits": RAW + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n",
    "a length that is too long": RAW + b"Content-Length: 10000000000\r\n\r\n",
    "a body that is cut off": RAW + b"Content-Length: 100\r\n\r\nab",
    "a chunk of 2^64": chunked(b"ffffffffffffffff1\r\n"),
    "a chunk below none": chunked(b"-1\r\n\r\n"),
    "a chunk that is no number": chunked(b"zz\r\n\r\n"),
    "a chunk that lies": chunked(b"2\r\nabcdef\r\n0\r\n\r\n"),
    "long extensions": chunked(b"1;" + LONG + b"\r\na\r\n0\r\n\r\n"),
    "many small chunks": chunked(b"1\r\na\r\n" * 200_000 + b"0\r\n\r\n"),
    "long trailers": chunked(b"0\r\n" + b"a: b\r\n" * 20_000 + b"\r\n"),
    "no body": POST + b"\r\n",
    "an empty body": body(b""),
    "much that is compressed": body(zlib.compress(bytes(10_000_000)), content_encoding="deflate"),
    "a text": body(b"http://example.org/a.png"),
    "another kind": body(b"{}", POST, content_type="application/json"),
    "a kind without an end": body(b"a", POST, content_type="image/png" * 5_000),
}
WIDE = b"a" * 60_000 + b"-" + b"a" * 60_000
FORMS = {
    **{
        f"a charset {name}": form(
            part(WIDE, 'name="xray-"') + b"--b--\r\n",
            f"multipart/form-data; boundary=b; charset={name}",
        )
        for name in ("punycode", "idna", "unicode_escape", "utf-7", "zlib", "no such", "utf-16")
    },
    "no boundary": form(b"--b--\r\n", "multipart/form-data"),
    "an empty boundary": form(b"----\r\n", "multipart/form-data; boundary="),
    "a long boundary": form(b"--b--\r\n", f"multipart/form-data; boundary={'b' * 3_000}"),
    "a boundary of blanks": form(b"--b--\r\n", 'multipart/form-data; boundary="  "'),
    "many parameters": form(b"--b--\r\n", "multipart/form-data" + "; a=b" * 5_000),
    "quotes without an end": form(b"--b--\r\n", 'multipart/form-data; boundary="' + "\\" * 9_000),
    "no part": form(b"--b--\r\n"),
    "no end": form(part(b"x") * 3),
    "many parts": form(part(b"x", 'name="a"') * 100_000 + b"--b--\r\n"),
    "many files": form(part(b"x") * 1_000 + b"--b--\r\n"),
    "a text in a file's place": form(part(b"http://example.org", 'name="xray"') + b"--b--\r\n"),
    "a part without a name": form(part(b"x", "") + b"--b--\r\n"),
    "a long head of a part": form(part(b"x", more=b"A: " + LONG + b"\r\n") + b"--b--\r\n"),
    "a head without an end": form(b"--b\r\nContent-Disposition: form-data; " + LONG * 20),
    "nearly a boundary": form(b"\r\n--" * 500_000),
    "a form in a form": form(
        part(b"x", more=b"Content-Type: multipart/mixed; boundary=b\r\n") + b"--b--\r\n"
    ),
    "a coding of a part": form(
        part(b"eA==", more=b"Content-Transfer-Encoding: base64\r\n") + b"--b--\r\n"
    ),
}
TENSORS = {
    "no JSON": infer(b"\xff{"),
    "deep JSON": infer(b"[" * 1_000_000),
    "deep data": infer(
        b'{"inputs":[{"name":"xray","datatype":"UINT8","shape":[1,224,224],"data":' + b"[" * 500_000
    ),
    "a list": infer([]),
    "no inputs": infer({}),
    "a huge shape": infer(tensor([2**62, 224, 224], [])),
    "a shape that overflows": infer(tensor([2**32, 2**32, 1], [])),
    "a shape below none": infer(tensor([-1, 224, 224], [])),
    "a shape of none": infer(tensor([0, 224, 224], [])),
    "a shape of floats": infer(tensor([1.0, 224, 224], [])),
    "a shape of truths": infer(tensor([True, 224, 224], [])),
    "a long shape": infer(tensor([1] * 100_000, [])),
    "numbers too large": infer(tensor([1, 224, 224], [256] * 50_176)),
    "numbers that are none": infer(
        b'{"inputs":[{"name":"xray","datatype":"UINT8","shape":[1,224,224],"data":[NaN]}]}'
    ),
    "numbers of many digits": infer(
        b'{"inputs":[{"name":"xray","datatype":"UINT8","shape":[1,1,1],'
        b'"data":[' + b"9" * 400_000 + b"]}]}"
    ),
    "texts as data": infer(tensor([1, 224, 224], ["a"] * 50_176)),
    "another type": infer(tensor([1, 224, 224], [0], datatype="BYTES")),
    "bytes that are not there": infer(tensor([1, 224, 224], binary_data_size=50_176), 120),
    "bytes below none": infer(tensor([1, 224, 224], binary_data_size=-1), 90),
    "very many bytes": infer(tensor([1, 224, 224], binary_data_size=2**63), 90),
    "a head below none": infer(tensor([1, 224, 224], []), -5),
    "a head beyond the body": infer(tensor([1, 224, 224], []), 10**9),
    "a head that is no number": infer(tensor([1, 224, 224], []), "x"),
    "outputs that there are not": infer(
        tensor([1, 224, 224], [0] * 50_176) | {"outputs": [{"name": "no"}] * 9_999}
    ),
    "a name without an end": infer({}, path="a" * 30_000),
    "a name that leads elsewhere": infer({}, path="..%2f..%2fetc%2fpasswd"),
    "an id that is no text": infer(tensor([1, 224, 224], [0] * 50_176) | {"id": {"a": [1]}}),
}
CASES = HEADS | BODIES | FORMS | TENSORS
ANSWERS = {200, 307, 400, 401, 404, 405, 408, 413, 415, 422, 431, 503}


class Probing(threading.Thread):
    """Asks /livez again and again; keeps the longest that an answer took."""

    def __init__(self, url):
        super().__init__()
        self.url, self.worst, self.ended, self.wrong = url, 0.0, threading.Event(), []

    def run(self):
        while not self.ended.wait(0.02):
            start = time.monotonic()
            try:
                status = httpx.get(f"{self.url}/livez", timeout=60).status_code
            except httpx.HTTPError as error:
                status = error
            self.worst = max(self.worst, time.monotonic() - start)
            if status != 200:
                self.wrong.append(status)


@pytest.fixture(scope="module")
def service(small_files, serving, processes_below, tmp_path_factory):
    with serving(small_files, tmp_path_factory.mktemp("home"), TOOLKIT_WORKERS="1") as running:
        process, url, log = running
        workers = processes_below(process.pid)
        probing = Probing(url)
        probing.start()
        yield url
        probing.ended.set()
        probing.join()
        assert processes_below(process.pid) == workers, "a worker was replaced"
        assert not probing.wrong and probing.worst < 3, (probing.wrong, probing.worst)
        assert "Traceback" not in log.read_text()
        peak = int(re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{workers[-1]}/status").read_text())[1])
        assert peak < 1_200_000, f"{peak} kB"


def whole_answer(url, content):
    """All that comes until the connection ends, of a client that then ends its side."""
    host, port = url.removeprefix("http://").split(":")
    found = b""
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        sending = threading.Thread(target=send, args=(connection, content))
        sending.start()
        try:
            while more := connection.recv(1 << 20):
                found += more
        except ConnectionError:
            pass
        sending.join()
    return found


def send(connection, content):
    try:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.mark.parametrize("name", CASES)
def test_request_that_is_hardly_one_gets_an_answer_or_an_end_and_harms_nobody(service, pngs, name):
    start = time.monotonic()
    found = whole_answer(service, CASES[name])
    assert time.monotonic() - start < SLOWEST_S
    assert not found or found.startswith(b"HTTP/1.1 "), found[:200]
    heads = re.findall(rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n", found)
    statuses = {int(status) for status in heads} - {100}
    assert statuses <= ANSWERS, found[:500]
    answer = httpx.post(
        f"{service}/predict", content=pngs[0], headers={"content-type": "image/png"}
    )
    assert answer.status_code == 200
