"""One process that runs the model for all workers; here on the CPU, as on a card."""

import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from toolkit.runtime.session import open_model
from toolkit.xray.reading import decode

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc to look into")
PNG = {"content-type": "image/png"}
OWNED = {"TOOLKIT_OWNER": "bento.owner", "TOOLKIT_PROVIDER": "cpu", "TOOLKIT_WORKERS": "2"}


def command_of(process):
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


def parts_of(root, processes_below):
    """The ids of the process that owns the card, and of the workers."""
    below = processes_below(root)[1:]
    owners = [each for each in below if "bento.owner" in command_of(each)]
    return owners, [each for each in below if "worker.service" in command_of(each)]


@pytest.fixture(scope="module")
def service(served, serving, tmp_path_factory):
    with serving(served, tmp_path_factory.mktemp("owned"), **OWNED) as found:
        await_ready(found[1], 2)
        yield found


def text_of(url):
    return httpx.get(f"{url}/metrics", timeout=20).text


def value_of(text, name):
    return float(re.search(rf"^toolkit_{name} (\S+)$", text, re.MULTILINE)[1])


def await_ready(url, workers):
    end = time.monotonic() + 60
    while value_of(text_of(url), "ready") != workers:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def png(encoded, xrays):
    return encoded(xrays[0])


def test_answers_are_those_of_a_worker_that_runs_the_model_itself(service, served, encoded, xrays):
    _, url, _ = service
    predictor = open_model(served.folder, served.name, "cpu", 1)
    with httpx.Client(base_url=url, timeout=30) as client:
        for xray in xrays:
            content = encoded(xray)
            said = client.post("/predict", content=content, headers=PNG).json()
            answer = predictor.answer(decode(content))
            assert said["class"] == answer.class_index
            np.testing.assert_allclose(said["probabilities"], answer.probabilities, atol=1e-6)
        files = [("xray", (f"{n}.png", encoded(xray))) for n, xray in enumerate(xrays)]
        batch = client.post("/predict_batch", files=files).json()["results"]
        assert [each["prediction"]["class"] for each in batch] == [
            predictor.answer(xray).class_index for xray in xrays
        ]


def test_other_routes_ask_the_owner_too(service, served, encoded, xrays):
    _, url, _ = service
    tensor = {"name": "xray", "shape": [9, 224, 224], "datatype": "UINT8"}
    nine = np.resize(xrays, (9, 224, 224))
    body = {"inputs": [tensor | {"data": nine.ravel().tolist()}], "outputs": [{"name": "logits"}]}
    with httpx.Client(base_url=url, timeout=60) as client:
        found = client.post(f"/v2/models/{served.name}/infer", json=body).json()
        logits = np.array(found["outputs"][0]["data"]).reshape(9, 4)
        explained = client.post("/explain", content=encoded(xrays[0]), headers=PNG)
        assert explained.status_code == 200
        assert client.get("/info").json()["provider"]["active"] == "CPUExecutionProvider"
    want = open_model(served.folder, served.name, "cpu", 1).predict(nine).logits
    np.testing.assert_allclose(logits, want, atol=1e-5)


def test_one_process_runs_the_model_and_counts_what_fills_batches_up(service, png, processes_below):
    process, url, _ = service
    owners, workers = parts_of(process.pid, processes_below)
    assert (len(owners), len(workers)) == (1, 2)
    before = text_of(url)
    for _ in range(5):
        httpx.post(f"{url}/predict", content=png, headers=PNG, timeout=30)
    after = text_of(url)
    for name in ("batch_size_sum", "batch_size_count", "inference_seconds_count"):
        assert value_of(after, name) - value_of(before, name) == 5
    assert value_of(after, "padding_total") >= value_of(before, "padding_total")
    assert value_of(after, "ready") == 2


def test_owner_that_dies_is_begun_anew_and_no_worker_is(service, png, processes_below):
    process, url, log = service
    (owner,), workers = parts_of(process.pid, processes_below)
    os.kill(owner, signal.SIGKILL)
    refused = 0
    end = time.monotonic() + 60
    with httpx.Client(base_url=url, timeout=30) as client:
        while True:
            answer = client.post("/predict", content=png, headers=PNG)
            if answer.status_code == 503:
                refused += 1
                assert int(answer.headers["retry-after"]) > 0
            else:
                assert answer.status_code == 200
                if refused:
                    break
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.01)
    await_ready(url, 2)
    (another,), still = parts_of(process.pid, processes_below)
    assert another != owner and sorted(still) == sorted(workers)


def test_what_the_owner_had_in_hand_when_it_died_is_a_503(service, png, processes_below):
    process, url, _ = service
    (owner,), _ = parts_of(process.pid, processes_below)
    os.kill(owner, signal.SIGSTOP)
    with httpx.Client(base_url=url, timeout=60) as client:
        request = client.build_request("POST", "/predict", content=png, headers=PNG)
        threading.Timer(0.5, os.kill, (owner, signal.SIGKILL)).start()
        answer = client.send(request)
    assert answer.status_code == 503
    assert answer.json()["code"] == "not_ready" and int(answer.headers["retry-after"]) > 0
    await_ready(url, 2)


@pytest.mark.full
@pytest.mark.timeout(180)
def test_owner_that_hangs_is_replaced(service, png, processes_below):
    process, url, log = service
    (owner,), _ = parts_of(process.pid, processes_below)
    os.kill(owner, signal.SIGSTOP)
    end = time.monotonic() + 120
    while command_of(owner):
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)
    await_ready(url, 2)
    assert httpx.post(f"{url}/predict", content=png, headers=PNG, timeout=30).status_code == 200


def test_worker_that_dies_leaves_the_owner_and_the_other_alone(service, png, processes_below):
    process, url, _ = service
    (owner,), workers = parts_of(process.pid, processes_below)
    os.kill(workers[0], signal.SIGKILL)
    await_ready(url, 2)
    owners, now = parts_of(process.pid, processes_below)
    assert owners == [owner] and workers[1] in now and workers[0] not in now
    assert httpx.post(f"{url}/predict", content=png, headers=PNG, timeout=30).status_code == 200


@pytest.mark.full
def test_owner_that_cannot_prove_the_model_is_why_workers_are_not_ready(
    copied, serving, tmp_path, plant
):
    def spoil(golden):
        golden["logits"] += 1

    plant(copied, spoil)
    with serving(copied, tmp_path, 503, **OWNED) as (_, url, _):
        said = httpx.get(f"{url}/readyz", timeout=20).json()
    assert "does not compute on CPUExecutionProvider what PyTorch does" in said["detail"]


@pytest.mark.full
def test_service_with_an_owner_ends_in_order(served, serving, tmp_path, processes_below):
    with serving(served, tmp_path, **OWNED) as (process, _, log):
        whole = processes_below(process.pid)
        process.terminate()
        assert process.wait(30) == 0
        assert not [each for each in whole if command_of(each)]
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert not [each for each in lines if each["event"] == "error"]
