"""The real `bentoml serve`, in processes of its own."""

import os
import select
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import numpy as np
import pytest

from toolkit.files import sha256
from toolkit.model import manifest
from toolkit.xray.reading import MAX_BYTES, decode


@pytest.fixture(scope="module")
def service(served, serving, tmp_path_factory):
    with serving(served, tmp_path_factory.mktemp("home"), TOOLKIT_WORKERS="2") as running:
        yield running


@pytest.fixture(scope="module")
def client(service):
    with httpx.Client(base_url=service[1], timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def torch_says(served):
    """Return a function from a file's bytes to what PyTorch makes of them."""
    import torch

    from export.convert.pipeline import load_pipeline

    pipeline = load_pipeline(served, manifest.load(served.manifest))

    @torch.no_grad()
    def probabilities(content):
        return pipeline(torch.from_numpy(decode(content))[None])[1][0].numpy()

    return probabilities


def test_answer_equals_torchs_from_the_files_bytes_on(client, served, torch_says, encoded, xrays):
    digest = sha256(served.path("pipeline"))
    classes = manifest.load(served.manifest).labels.classes
    seen = []
    odd = np.pad(xrays[0], ((10, 30), (0, 60)), mode="edge")
    for kind, pixels in (("PNG", xrays[1]), ("JPEG", xrays[2]), ("PNG", odd), ("JPEG", odd[40:])):
        content = encoded(pixels, kind)
        answer = client.post("/predict", files={"xray": ("knee", content)})
        assert answer.status_code == 200, answer.text
        result = answer.json()
        expected = torch_says(content)
        np.testing.assert_allclose(result["probabilities"], expected, atol=1e-5, rtol=0)
        assert result["class"] == int(np.argmax(expected))
        assert result["label"] == classes[result["class"]]
        assert result["model"] == "small"
        assert result["model_sha256"] == digest
        seen.append(tuple(result["probabilities"]))
    assert len(set(seen)) == len(seen), "the model should tell these X-rays apart"


def test_real_xray_is_answered_as_torch_does(client, torch_says, shared):
    path = next(iter(sorted((shared / "data" / "knee" / "val" / "3").glob("*.jpg"))))
    answer = client.post("/predict", files={"xray": path.read_bytes()}).json()
    expected = torch_says(path.read_bytes())
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5, rtol=0)


def test_dicom_file_is_answered_as_its_pixels_are_and_none_of_its_tags_is_logged(
    client, service, encoded, xrays, as_dicom
):
    pixels, kind = xrays[1].copy(), {"content-type": "application/dicom"}
    # Without a window, what is there is stretched to black and white.
    pixels[0, :2] = 0, 255
    content = as_dicom(pixels)
    expected = client.post("/predict", content=encoded(pixels), headers=RAW).json()
    assert client.post("/predict", content=content, headers=kind).json() == expected
    assert client.post("/predict", files={"xray": ("a.dcm", content)}).json() == expected
    assert "Doe" not in service[2].read_text()


@pytest.fixture
def asked(service):
    """What asks the service as `toolkit predict http://HOST:PORT` does."""
    from toolkit.client import Client

    with Client(service[1]) as asked:
        yield asked


def test_toolkits_client_is_answered(asked, served, torch_says, encoded, xrays, tmp_path):
    assert asked.info()["model_sha256"] == sha256(served.path("pipeline"))
    files = [tmp_path / f"{index}.png" for index in range(len(xrays))]
    for file, pixels in zip(files, xrays, strict=True):
        file.write_bytes(encoded(pixels))
    files[3].write_bytes(b"no image")
    found = list(asked.predict_many(files))
    assert str(found[3]).startswith(f"{files[3]}: not a ") and found[3].status == 415
    for file, each in zip(files[:3] + files[4:], found[:3] + found[4:], strict=True):
        expected = torch_says(file.read_bytes())
        np.testing.assert_allclose(each.probabilities, expected, atol=1e-5, rtol=0)
        assert (each.model, each.provider) == ("small", "CPUExecutionProvider")


RAW = {"content-type": "image/png"}


def test_chunked_body_over_the_limit_is_refused_before_its_end(service):
    host, port = service[1].removeprefix("http://").split(":")
    head = b'--b\r\nContent-Disposition: form-data; name="xray"; filename="a.png"\r\n\r\n'
    sent = 0
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
            + b"%x\r\n%s\r\n"
            % (len(head), head)
        )
        while sent < 10 * MAX_BYTES and not select.select([connection], [], [], 0)[0]:
            connection.sendall(b"f4240\r\n%s\r\n" % bytes(1_000_000))
            sent += 1_000_000
        answer = b""
        while b"}" not in answer and (more := connection.recv(10_000)):
            answer += more
    assert MAX_BYTES <= sent < 10 * MAX_BYTES, "the whole body was read"
    assert answer.startswith(b"HTTP/1.1 413 ") and b"too_large" in answer


def test_client_that_hangs_up_does_no_harm(client, service, encoded, xrays):
    host, port = service[1].removeprefix("http://").split(":")
    for _ in range(3):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            )
    for _ in range(4):
        assert client.post("/predict", files={"xray": encoded(xrays[0])}).status_code == 200
    assert "Traceback" not in service[2].read_text()


def test_pages_of_bentoml_that_load_scripts_are_not_served(client):
    for path in ("/", "/docs", "/static_content/swagger-ui.css"):
        assert "googletagmanager" not in client.get(path).text
    assert client.get("/docs").status_code == 404


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc to look into")
def test_no_process_of_the_service_loads_torch(service, client, encoded, xrays, processes_below):
    assert client.post("/predict", files={"xray": encoded(xrays[0])}).status_code == 200
    loaded = [Path(f"/proc/{each}/maps").read_text() for each in processes_below(service[0].pid)]
    assert len(loaded) >= 3, "a parent and two workers"
    assert sum("onnxruntime" in maps for maps in loaded) >= 2
    assert not any("libtorch" in maps or "/torch/" in maps for maps in loaded)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc to look into")
def test_on_a_cpu_no_process_is_in_between(service, processes_below):
    commands = [
        Path(f"/proc/{each}/cmdline").read_text() for each in processes_below(service[0].pid)
    ]
    assert sum("worker.service" in command for command in commands) == 2
    assert not any("bento.owner" in command for command in commands)


@pytest.fixture
def refused(started, tmp_path):
    """Return a function: the one line on stderr of a service that must not start."""

    def refuse(files, port=None, **more):
        process, _ = started(files, tmp_path, port, subprocess.PIPE, subprocess.PIPE, **more)
        try:
            out, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            pytest.fail(f"it did not end: {out}{err}")
        assert process.returncode not in (0, None)
        assert "listening" not in (out + err).lower()
        lines = err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), err
        return lines[0]

    return refuse


# test_session.py opens a model with each of these faults, and more, in one process.
@pytest.mark.parametrize(
    "fault",
    [
        "one byte",
        *(
            pytest.param(each, marks=pytest.mark.full)
            for each in ("no manifest", "newer schema", "no verdict", "failed verdict")
        ),
    ],
    indirect=True,
)
def test_service_refuses_to_start_in_one_line(copied, refused, fault):
    spoil, _, message = fault
    spoil(copied)
    assert message in refused(copied)


def test_service_refuses_to_start_without_golden_xrays(copied, refused):
    copied.path("golden").unlink()
    found = f"has no golden X-rays at {copied.path('golden')} to prove itself by: run `toolkit"
    assert found in refused(copied)


def test_service_refuses_a_port_in_use(served, refused):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused(served, port)
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in line


@pytest.mark.full
def test_service_refuses_a_port_that_is_none(served, refused):
    assert "cannot listen on 127.0.0.1 port 99999" in refused(served, 99999)


# test_session.py asks for it in one process.
@pytest.mark.full
@pytest.mark.skipif(
    Path("/proc/driver/nvidia/version").exists(), reason="this machine may have CUDA"
)
def test_service_refuses_cuda_that_cannot_be_had(served, refused):
    assert "CUDA was asked for" in refused(served, TOOLKIT_PROVIDER="cuda")
