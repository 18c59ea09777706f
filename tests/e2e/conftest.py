"""A real nginx with the configuration that the repository ships."""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy" / "nginx"
DEADLINE_S = 30.0


def _replaced(text, old, new):
    assert old in text, f"{old!r} is not in the configuration"
    return text.replace(old, new)


def _replicas(ports):
    """The shipped replicas.conf with a server for each port; or what it shall be, given as text."""
    if len(ports) == 1 and isinstance(ports[0], str):
        return ports[0]
    lines = (CONFIGURATION / "replicas.conf").read_text().splitlines()
    (first,) = [each for each in lines if ":3000 " in each]
    servers = [_replaced(first, ":3000", f":{each}") for each in ports]
    others = [each for each in lines if not each.strip().startswith("server ")]
    at = lines.index(first)
    return "\n".join([*others[:at], *servers, *others[at:]])


def _wait_for(port, process, log):
    end = time.monotonic() + DEADLINE_S
    while True:
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return


@pytest.fixture(scope="session")
def nginx():
    """The path of nginx; what needs it skips where it is not installed."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if not found:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    return found


@pytest.fixture
def proxy(nginx, free_port, tmp_path):
    """Return a context: nginx in front of `replicas`; yields its address, probe port and log.

    `changes` are texts of the configuration and what to put for them, such as a time that a test
    cannot wait.
    """

    @contextmanager
    def running(*replicas, changes=()):
        port, probes = free_port(), free_port()
        text = (CONFIGURATION / "nginx.conf").read_text()
        for old, new in {
            "listen 8080": f"listen 127.0.0.1:{port}",
            "listen 8081": f"listen 127.0.0.1:{probes}",
            "/tmp/": f"{tmp_path}/",
            **dict(changes),
        }.items():
            text = _replaced(text, old, new)
        (tmp_path / "nginx.conf").write_text(text)
        (tmp_path / "replicas.conf").write_text(_replicas(replicas))
        log = tmp_path / "log"
        # The folder of the test is closed to the user that nginx would become.
        command = [nginx, "-p", f"{tmp_path}/", "-c", "nginx.conf", "-g", "daemon off; user root;"]
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, cwd=tmp_path)
        try:
            _wait_for(port, process, log)
            yield f"http://127.0.0.1:{port}", probes, log
        finally:
            process.send_signal(signal.SIGQUIT if process.poll() is None else 0)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait(10)

    return running
