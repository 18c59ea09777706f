"""BentoML's own configuration as far as it holds, given from a folder that is not the service's."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium")
TOKEN = "a-token"
BENTOMLS_PORT = 3000
ASK = """
async ([url, token, content]) => {
  const headers = { "content-type": "image/png", authorization: `Bearer ${token}` };
  const body = Uint8Array.from(content);
  try {
    const answer = await fetch(`${url}/predict`, { method: "POST", headers, body });
    return [answer.status, await answer.json(), answer.headers.get("x-request-id")];
  } catch (error) {
    return error.name;
  }
}
"""


@pytest.fixture(scope="module")
def page():
    """The address of a page of another site's, without anything in it."""

    class Empty(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def configured(served, tmp_path_factory):
    """Return a function that starts the service from elsewhere by a configuration alone."""

    @contextmanager
    def start(http, stderr=None, **environment):
        folder = tmp_path_factory.mktemp("elsewhere")
        (folder / "models").symlink_to(served.folder)
        settings = {"services": {"toolkit": {"http": http}}}
        (folder / "bentoml.yaml").write_text(json.dumps(settings))
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("TOOLKIT_", "BENTOML_"))}
        names = {
            "TOOLKIT_MODELS": "models",
            "BENTOML_CONFIG": "bentoml.yaml",
            "BENTOML_HOME": "home",
        }
        own = {"TOOLKIT_MODEL": served.name, "TOOLKIT_WORKERS": "1", "TOOLKIT_TOKEN": TOKEN}
        command = [Path(sys.executable).with_name("bentoml"), "serve", ROOT]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=clean | names | own | environment,
                stdout=log,
                stderr=stderr or log,
                start_new_session=True,
            )
        try:
            yield process, folder
        finally:
            process.terminate()
            process.wait(30)

    return start


@pytest.fixture(scope="module")
def service(configured, await_status, free_port, page):
    """The address of a service whose port, and whose sites, are those of a configuration."""
    port = free_port()
    cors = {"enabled": True, "access_control_allow_origins": [page]}
    with socket.socket() as other:
        # Whatever has BentoML's own port does not matter.
        with suppress(OSError):
            other.bind(("127.0.0.1", BENTOMLS_PORT))
            other.listen()
        with configured({"host": "127.0.0.1", "port": port, "cors": cors}) as (process, folder):
            url = f"http://127.0.0.1:{port}"
            await_status(url, 200, process, folder / "log")
            assert (folder / "home").is_dir() and not (ROOT / "home").exists()
            yield url


LOAD = """
import os, sys, bentoml
bentoml.load(sys.argv[1], working_dir=sys.argv[2] or None)
print(*(os.environ[name] for name in ("TOOLKIT_MODELS", "BENTOML_CONFIG", "BENTOML_HOME")))
"""


@pytest.mark.parametrize("place", [(ROOT, ""), (".", ROOT)], ids=["folder", "working_dir"])
def test_relative_paths_are_the_callers_where_python_begins_the_service(served, tmp_path, place):
    (tmp_path / "models").symlink_to(served.folder)
    (tmp_path / "own.yaml").write_text("services: {}")
    own = {"TOOLKIT_MODELS": "models", "BENTOML_CONFIG": "own.yaml", "BENTOML_HOME": "home"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, place)],
        cwd=tmp_path,
        env=os.environ | own | {"TOOLKIT_MODEL": served.name},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(tmp_path / path) for path in own.values()], done.stderr


@pytest.mark.parametrize(
    ("http", "said"),
    [
        pytest.param(
            {},
            "error: cannot listen on 127.0.0.1 port {port}: Address already in use",
            marks=pytest.mark.full,
        ),
        pytest.param(
            {"port": 99_999},
            "error: cannot listen on 127.0.0.1 port 99999: ",
            marks=pytest.mark.full,
        ),
        pytest.param(
            {"cors": {"enabled": True}},
            "error: http.cors is enabled in BentoML's configuration and",
            marks=pytest.mark.full,
        ),
        ({"cors": {"enabled": True, "access_control_allow_origins": []}}, "error: http.cors is"),
        ({"cors": 5}, "error: BentoML's configuration: Invalid configuration file was given: "),
    ],
    ids=["port taken", "no port", "no site", "empty list of sites", "another type"],
)
def test_configuration_that_cannot_be_used_is_refused_in_one_line(
    configured, service, free_port, http, said
):
    port = int(service.rpartition(":")[2])
    free = {"port": free_port()} if "cors" in http else {}
    whole = {"host": "127.0.0.1", "port": port} | free | http
    with configured(whole, subprocess.PIPE) as (process, _):
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.decode().startswith(said.format(port=port)) and errors.count(b"\n") == 1


def test_preflight_of_a_site_is_answered_as_the_routes_are(service, page):
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    answer = httpx.options(f"{service}/predict", headers=asked | {"origin": page})
    assert answer.status_code == 200, "without a token: no browser sends one with it"
    assert answer.headers["access-control-allow-origin"] == page
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"]
    answer = httpx.options(f"{service}/predict", headers=asked | {"origin": "http://a.example"})
    assert answer.status_code == 400 and "access-control-allow-origin" not in answer.headers
    other = asked | {"origin": page, "access-control-request-method": "DELETE"}
    assert httpx.options(f"{service}/predict", headers=other).status_code == 400


def test_refusals_can_be_read_by_the_site_too_and_all_else_is_as_ever(service, page):
    answer = httpx.get(f"{service}/info", headers={"origin": page})
    assert answer.status_code == 401 and answer.headers["access-control-allow-origin"] == page
    assert httpx.get(f"{service}/livez").headers.get("access-control-allow-origin") is None
    assert httpx.options(f"{service}/predict").status_code in (401, 405)


@pytest.mark.full
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_script_of_the_site_that_is_named_is_answered_in_a_browser_and_of_no_other(
    service, page, encoded, xrays
):
    from playwright.sync_api import sync_playwright

    content = encoded(xrays[0])
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "image/png"}
    expected = httpx.post(f"{service}/predict", content=content, headers=headers).json()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"])
        tab = browser.new_page()
        tab.goto(page)
        status, answer, identity = tab.evaluate(ASK, [service, TOKEN, [*content]])
        assert (status, answer) == (200, expected) and identity
        status, problem, _ = tab.evaluate(ASK, [service, "another", [*content]])
        assert status == 401 and problem["code"]
        # The same page, of an origin that is not named.
        tab.goto(page.replace("127.0.0.1", "localhost"))
        assert tab.evaluate(ASK, [service, TOKEN, [*content]]) == "TypeError"
        browser.close()
