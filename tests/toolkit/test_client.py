"""The client, and `toolkit predict http://HOST:PORT`, against real HTTP servers."""

import json
import os
import pty
import signal
import subprocess
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import numpy as np
import pytest
from command_line import TOOLKIT, begin, clean_environment, here, json_of, refused
from PIL import Image

from toolkit.client import Client, Prediction
from toolkit.errors import ImageError, ServiceError, ToolkitError, UsageError
from toolkit.xray.reading import MAX_BYTES

ROOT = Path(__file__).resolve().parents[2]
GOOD = {
    "class": 1,
    "label": "minimal",
    "probabilities": [0.25, 0.5, 0.125, 0.125],
    "expected_grade": 1.75,
    "abstain": False,
    "in_scope": True,
    "model": "m",
    "model_sha256": "a" * 64,
    "provider": "CPUExecutionProvider",
}
INFO = {
    "model": "m",
    "model_sha256": "a" * 64,
    "classes": ["none", "minimal", "moderate", "severe"],
}


class Server(ThreadingHTTPServer):
    """Answers each request as `script` says, and remembers what it was asked.

    `script` takes the handler, with the `number` of the request, from 0 on, and its `body`. It
    returns status, content (bytes, or what becomes JSON) and headers; None where it has answered
    by itself.
    """

    daemon_threads = True

    def __init__(self, script, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.script = script
        self.asked, self.connections = [], set()
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self):
        self.body = self.rfile.read(int(self.headers.get("content-length", 0)))
        with self.server.lock:
            self.number = len(self.server.asked)
            self.server.asked.append((self.command, self.path, dict(self.headers), self.body))
            self.server.connections.add(self.client_address)
        answer = self.server.script(self)
        if answer is None:
            self.close_connection = True
            return
        status, content, *headers = answer
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers[0] if headers else {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve():
    """Return a function that starts a server with a script."""
    running = []

    def start(script):
        server = Server(script)
        running.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def always(*answer):
    return lambda _: answer


def trouble(client, content=b"x"):
    """The one line of what `predict` raises."""
    with pytest.raises(ToolkitError) as error:
        client.predict(content)
    line = str(error.value)
    assert "\n" not in line and line.isprintable() and len(line) < 500
    return error.value


# --- one answer


def test_the_file_is_the_body_and_the_answer_is_typed(serve):
    server = serve(always(200, GOOD | {"something_new": 1}))
    with Client(server.url + "/") as client:
        found = client.predict(b"\x89PNG and more")
    assert found == Prediction(
        1, "minimal", (0.25, 0.5, 0.125, 0.125), 1.75, False, True,
        model="m", model_sha256="a" * 64, provider="CPUExecutionProvider",
    )  # fmt: skip
    ((method, path, headers, body),) = server.asked
    assert (method, path, body) == ("POST", "/predict", b"\x89PNG and more")
    assert headers["Content-Type"] == "application/octet-stream"


def test_what_a_manifest_lacks_is_none(serve):
    lean = {key: GOOD[key] for key in GOOD if key not in ("expected_grade", "abstain", "in_scope")}
    with Client(serve(always(200, lean)).url) as client:
        found = client.predict(b"x")
    assert (found.expected_grade, found.abstain, found.in_scope) == (None, None, None)


def test_info_is_what_the_service_says_of_itself(serve):
    server = serve(always(200, INFO))
    with Client(server.url + "/below") as client:
        assert client.info() == INFO
    assert server.asked[0][:2] == ("GET", "/below/info")


@pytest.mark.parametrize("change", [{"model": 3}, {"classes": "none"}, {"classes": [1, 2]}])
def test_an_info_that_does_not_name_the_model_is_refused(serve, change):
    with (
        Client(serve(always(200, INFO | change)).url) as client,
        pytest.raises(ServiceError, match="does not answer as the service does"),
    ):
        client.info()


# --- again


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_service_is_asked_again(serve, status):
    server = serve(lambda request: (status, b"") if request.number < 2 else (200, GOOD))
    with Client(server.url) as client:
        assert client.predict(b"x").label == "minimal"
    assert [each[3] for each in server.asked] == [b"x"] * 3


def test_it_does_not_come_back_before_it_was_asked_to(serve):
    times = []

    def script(request):
        times.append(time.monotonic())
        return (503, b"", {"Retry-After": "1"}) if request.number == 0 else (200, GOOD)

    with Client(serve(script).url) as client:
        client.predict(b"x")
    assert times[1] - times[0] >= 1


def test_a_wait_beyond_the_deadline_is_an_error_at_once(serve):
    problem = {"detail": "64 requests wait already"}
    server = serve(always(429, problem, {"Retry-After": "3600"}))
    with Client(server.url, deadline_s=300) as client:
        error = trouble(client)
    assert isinstance(error, ServiceError) and error.status == 429
    assert str(error) == f"{server.url} is busy (429): 64 requests wait already"
    assert len(server.asked) == 1


@pytest.mark.parametrize("wait", ["9" * 5000, "Fri, 31 Dec 99999 23:59:59 GMT"])
def test_a_wait_that_nobody_can_read_is_none(serve, wait):
    answers = [(503, b"", {"Retry-After": wait}), (200, GOOD)]
    with Client(serve(lambda request: answers[request.number]).url) as client:
        assert client.predict(b"x").label == "minimal"


def test_pauses_grow_up_to_a_limit_and_are_not_all_the_same(serve, monkeypatch):
    server = serve(lambda request: (503, b"") if request.number < 12 else (200, GOOD))
    pauses, wait = [], threading.Event.wait

    def skip(event, timeout=None):
        return wait(event) if timeout is None else pauses.append(timeout)

    monkeypatch.setattr(threading.Event, "wait", skip)
    with Client(server.url, deadline_s=1000) as client:
        client.predict(b"x")
    assert len(pauses) == 12 and len(set(pauses)) == 12
    assert 0.05 <= pauses[0] <= 0.1 and 0.1 <= pauses[1] <= 0.2
    assert all(2.5 <= each <= 5 for each in pauses[6:])


def test_a_dropped_connection_is_asked_again(serve):
    def script(request):
        if request.number == 0:
            return None
        if request.number == 1:  # a body that ends before its length
            request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{}")
            return None
        return 200, GOOD

    server = serve(script)
    with Client(server.url) as client:
        assert client.predict(b"x").class_index == 1
    assert len(server.asked) == 3


def test_a_service_that_is_not_there_yet_is_waited_for(free_port):
    port, servers = free_port(), []

    def start():
        servers.append(Server(always(200, GOOD), port))
        servers[0].serve_forever(0.01)

    late = threading.Timer(0.3, start)
    late.start()
    with Client(f"http://127.0.0.1:{port}") as client:
        assert client.predict(b"x").class_index == 1
    servers[0].shutdown()
    late.join()
    servers[0].server_close()


def test_a_service_that_is_never_there_is_one_line(free_port):
    with Client(f"http://127.0.0.1:{free_port()}", deadline_s=0.3) as client:
        assert "does not answer: Connection refused" in str(trouble(client))


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 413, 415, 422, 500])
def test_any_other_status_is_not_asked_again(serve, status):
    problem = {"code": "some_code", "detail": "a reason", "status": status, "title": "t"}
    server = serve(always(status, problem))
    with Client(server.url) as client:
        error = trouble(client)
    assert len(server.asked) == 1
    assert error.status == status
    if status in (400, 413, 415, 422):
        assert isinstance(error, ImageError)
        assert (error.code, str(error)) == ("some_code", "a reason")
    else:
        assert isinstance(error, ServiceError)


# --- servers that are none of ours


@pytest.mark.parametrize(
    "content",
    [
        b"<html>",
        b"",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b"9" * 10_000,
        json.dumps(GOOD | {"class": True}).encode(),
        json.dumps(GOOD | {"class": 4}).encode(),
        json.dumps(GOOD | {"class": -1}).encode(),
        json.dumps(GOOD | {"probabilities": []}).encode(),
        json.dumps(GOOD | {"probabilities": [float("nan"), 0, 0, 0]}).encode(),
        json.dumps(GOOD | {"probabilities": ["0.25"] * 4}).encode(),
        json.dumps(GOOD | {"expected_grade": float("inf")}).encode(),
        json.dumps({k: v for k, v in GOOD.items() if k != "model_sha256"}).encode(),
    ],
)
def test_an_answer_that_is_none_of_ours_is_one_line(serve, content):
    with Client(serve(always(200, content)).url) as client:
        error = trouble(client)
    assert isinstance(error, ServiceError)
    assert "does not answer as the service does" in str(error)


def test_a_reason_does_nothing_to_a_terminal(serve):
    problem = {"detail": "\x1b[2J\r\nerror:\x07" + "x" * 10_000, "code": "c\x1b"}
    with Client(serve(always(422, problem)).url) as client:
        error = trouble(client)
    assert str(error).startswith("[2J error: xxx") and error.code == "c"


def test_an_endless_answer_is_not_kept(serve):
    with Client(serve(always(200, bytes(17_000_000))).url) as client:
        assert "over 16,000,000 bytes" in str(trouble(client))


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"]
)
def test_a_server_that_trickles_is_left_at_the_deadline(serve, start):
    over = threading.Event()

    def script(request):
        request.wfile.write(start)
        while not over.wait(0.05):
            request.wfile.write(b"x")

    with Client(serve(script).url, timeout_s=0.5, deadline_s=0.5) as client:
        asking = threading.Thread(target=trouble, args=(client,))
        asking.start()
        asking.join(10)
    left = not asking.is_alive()
    over.set()
    assert left


def test_a_line_that_is_not_http_is_one_line(serve):
    with Client(
        serve(lambda request: request.wfile.write(b"\x1b]0;SSH-2.0\n") and None).url,
        deadline_s=0.2,
    ) as client:
        assert "does not answer" in str(trouble(client))


# --- addresses and tokens


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host",
        "file:///etc/passwd",
        "host:3000",
        "http://",
        "http://host:port",
        "http://host:99999",
        "http://[::1",
        "http://host/\r\nX: y",
        "http://ho st",
        "http://host/?q=1",
        "http://user:secret@host",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_password(url):
    with pytest.raises(UsageError, match="give http://HOST:PORT") as error:
        Client(url)
    assert "secret" not in str(error.value) and str(error.value).isprintable()


def test_a_host_that_is_none_is_not_asked_for_again():
    with Client("http://no-such-host.invalid") as client:
        assert "cannot be found" in str(trouble(client))


def test_the_token_is_sent_and_never_said(serve, monkeypatch):
    server = serve(always(401, {"detail": "no"}))
    monkeypatch.setenv("TOOLKIT_TOKEN", "from-the-environment")
    for client in (Client(server.url), Client(server.url, "handed-in")):
        error = trouble(client)
        assert "set TOOLKIT_TOKEN" in str(error)
        for secret in ("handed-in", "from-the-environment"):
            assert secret not in f"{error} {client!r}"
    sent = [each[2]["Authorization"] for each in server.asked]
    assert sent == ["Bearer from-the-environment", "Bearer handed-in"]
    monkeypatch.delenv("TOOLKIT_TOKEN")
    trouble(Client(server.url))
    assert "Authorization" not in server.asked[-1][2]


@pytest.mark.parametrize("token", ["se cret", "secret\r\nX: y", "sécret"])
def test_a_token_that_no_header_may_carry_is_refused_without_saying_it(token):
    with pytest.raises(UsageError) as error:
        Client("http://host", token)
    assert token not in str(error.value) and "cret" not in str(error.value)


# --- many


@pytest.fixture
def files(tmp_path):
    """24 files, each with its number in it."""
    paths = [tmp_path / f"{number}.png" for number in range(24)]
    for number, path in enumerate(paths):
        path.write_bytes(b"%d" % number)
    return paths


def test_many_come_in_order_with_several_in_flight_over_kept_connections(serve, files):
    together = threading.Barrier(4, timeout=20)

    def script(request):
        body = request.body
        if request.number < 4:
            together.wait()  # nobody is answered before four have asked
        time.sleep(0.02 * (int(body) % 3))
        return 200, GOOD | {"label": body.decode()}

    server = serve(script)
    with Client(server.url) as client:
        found = [each.label for each in client.predict_many(files, in_flight=4)]
    assert found == [str(number) for number in range(24)]
    assert len(server.asked) == 24 and len(server.connections) <= 4


def test_a_refused_file_does_not_stop_the_others(serve, files, tmp_path):
    def script(request):
        if request.body == b"1":
            return 415, {"code": "not_an_image", "detail": "not a PNG or JPEG file"}
        return 200, GOOD

    server = serve(script)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    paths = [files[0], files[1], tmp_path / "none", large, files[2]]
    with Client(server.url) as client:
        found = list(client.predict_many(paths))
    assert [isinstance(each, Prediction) for each in found] == [True, False, False, False, True]
    assert str(found[1]) == f"{files[1]}: not a PNG or JPEG file"
    assert [each.code for each in found[1:4]] == ["not_an_image", "unreadable", "too_large"]
    assert len(server.asked) == 3, "what is too large is not sent"


def test_paths_are_taken_as_they_are_needed(serve, files):
    taken = []

    def paths():
        for path in files:
            taken.append(path)
            yield path

    with Client(serve(always(200, GOOD)).url) as client:
        answers = client.predict_many(paths(), in_flight=2)
        next(answers)
        assert len(taken) <= 5
        answers.close()
        assert client.predict(b"x"), "the client goes on"


def test_closing_ends_what_is_under_way(serve):
    asked, never = threading.Event(), threading.Event()

    def script(_):
        asked.set()
        never.wait(30)

    client = Client(serve(script).url)
    failed = []
    thread = threading.Thread(target=lambda: failed.append(trouble(client)))
    thread.start()
    assert asked.wait(10)
    client.close()
    thread.join(10)
    never.set()
    assert not thread.is_alive() and isinstance(failed[0], ServiceError)


def test_a_service_that_goes_away_ends_it_in_one_error(serve, files):
    server = serve(lambda request: (200, GOOD) if request.number < 5 else (500, b""))
    with Client(server.url) as client, pytest.raises(ServiceError, match="status 500"):
        list(client.predict_many(files))


# --- the command


predict = partial(here, "predict", cwd=ROOT)


@pytest.fixture(scope="module")
def shipped():
    """What the service would answer with the model that the repository ships."""
    from toolkit.runtime.session import open_model
    from toolkit.xray.reading import decode

    predictor = open_model(ROOT / "saved_models", "model_saved", "cpu", threads=1)
    named = {"model": predictor.name, "model_sha256": predictor.sha256}

    def script(request):
        if request.path == "/info":
            return 200, named | {"classes": list(predictor.meaning.classes)}
        try:
            xray = decode(request.body)
        except ImageError as error:
            return error.status, {"code": error.code, "detail": str(error)}
        said = msgspec.to_builtins(predictor.answer(xray))
        return 200, said | named | {"provider": predictor.provider}

    return script


def test_a_service_prints_what_the_model_would_print_here(serve, shipped, tmp_path, drawn_xrays):
    paths = [tmp_path / "a.png", tmp_path / "bad.png", tmp_path / "none.png", tmp_path / "b.png"]
    Image.fromarray(drawn_xrays[0]).save(paths[0])
    Image.fromarray(drawn_xrays[-1]).save(paths[3])
    paths[1].write_bytes(b"no image")
    url = serve(shipped).url
    for more in ((), ("--json",)):
        ours, theirs = predict("model_saved", *paths, *more), predict(url, *paths, *more)
        assert theirs.code == ours.code == 2
        assert theirs.err == ours.err == ""
        if more:
            ours, theirs = json_of(ours), json_of(theirs)
            for known, found in zip(ours["results"], theirs["results"], strict=True):
                assert list(known) == list(found)
                if "probabilities" in known:
                    np.testing.assert_allclose(
                        found.pop("probabilities"), known.pop("probabilities"), atol=1e-5
                    )
                    assert found.pop("expected_grade") == pytest.approx(
                        known.pop("expected_grade"), abs=1e-4
                    )
            assert theirs == ours
        else:
            assert theirs.out == ours.out
    assert predict(url, paths[0]).code == 0


def test_a_service_that_cannot_be_used_is_one_line(serve):
    line = f"error: {serve(always(401, b'{}')).url} asks for its token: set TOOLKIT_TOKEN\n"
    assert predict(line.split()[1], "x.png") == (2, "", line)
    code, out, err = predict(line.split()[1], "x.png", TOOLKIT_TOKEN="another")
    assert (code, out) == (2, "")
    assert "refuses the token that it was given: set TOOLKIT_TOKEN" in err
    assert "secret" not in refused("predict", "http://user:secret@host", "x.png")


def test_answers_of_two_models_are_not_mixed(serve, tmp_path):
    (tmp_path / "a").write_bytes(b"a")

    def script(request):
        return 200, INFO if request.path == "/info" else GOOD | {"model_sha256": "b" * 64}

    said = predict(serve(script).url, tmp_path / "a")
    assert said.code == 2 and "serves another model" in said.err


def test_ctrl_c_ends_it_in_one_line(serve, files):
    def script(request):
        if request.path == "/info":
            return 200, INFO
        if request.number == 1:
            process.send_signal(signal.SIGINT)
        time.sleep(30)
        return 200, GOOD

    url = serve(script).url
    process = begin("predict", url, *files)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "error: stopped\n")


def test_progress_is_shown_on_a_terminal(serve, files):
    url = serve(lambda request: (200, INFO if request.path == "/info" else GOOD)).url
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [TOOLKIT, "predict", url, *files, "--json"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=clean_environment(TERM="xterm", COLUMNS="80"),
    )
    os.close(theirs)
    content = json.loads(process.communicate(timeout=60)[0])
    shown = b""
    try:
        while more := os.read(ours, 10_000):
            shown += more
    except OSError:  # how a terminal ends
        pass
    os.close(ours)
    assert len(content["results"]) == 24
    assert b"asking" in shown and b"100%" in shown
