"""Files that are replaced under a running service: all its workers answer alike, or not at all."""

import os
import shutil
import signal
import time
from dataclasses import replace

import httpx
import pytest

from toolkit.errors import ProviderError, RequestError
from toolkit.model import manifest
from toolkit.model.artifacts import answers_sha256

RAW = {"content-type": "image/png"}


def never_unsure(files):
    """Put another proven model in a model's place, which abstains from no X-ray or from each."""
    record = manifest.load(files.manifest)
    was = record.calibration.abstain_below
    calibration = replace(record.calibration, abstain_below=0.0 if was else 1.5)
    record = replace(record, calibration=calibration)
    proven = replace(record.equivalence, answers_sha256=answers_sha256(record))
    manifest.save(replace(record, equivalence=proven), files.manifest)


def gone(files):
    files.manifest.unlink()


def half_replaced(files):
    files.path("pipeline").write_bytes(files.path("explainer").read_bytes())


def beside_another(files):
    """Leave the model, and put another beside it; none is named."""
    for path in files.folder.iterdir():
        shutil.copy(path, path.with_name(path.name.replace(files.name, "model_saved")))
    other = replace(manifest.load(files.manifest), name="model_saved")
    manifest.save(other, files.folder / "model_saved.json")


@pytest.fixture
def service(copied, serving, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    with serving(copied, home, TOOLKIT_WORKERS="2") as running:
        yield running


def await_that(condition, log):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


@pytest.mark.full
@pytest.mark.parametrize("change", [never_unsure, gone, half_replaced])
def test_worker_that_finds_other_files_does_not_answer_and_readyz_shows_it(
    service, copied, processes_below, encoded, xrays, change
):
    process, url, log = service
    content = encoded(xrays[0])

    def ask(path="/predict"):
        answer = httpx.post(f"{url}{path}", content=content, headers=RAW, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ready():
        return httpx.get(f"{url}/readyz", timeout=30).json()

    await_that(lambda: ready()["whole"], log)
    expected = ask()
    change(copied)
    killed, others = processes_below(process.pid)[-1], processes_below(process.pid)[:-1]
    os.kill(killed, signal.SIGKILL)
    await_that(lambda: '"not ready"' in log.read_text(), log)
    assert all(ask() == expected for _ in range(16))
    assert ready()["ready"] is True and ready()["whole"] is False
    assert "1 of 2 workers answer" in ready()["reason"]
    assert set(others) <= set(processes_below(process.pid))
    assert len(processes_below(process.pid)) == 3
    assert "Traceback" not in log.read_text()


@pytest.mark.full
def test_worker_serves_the_model_of_its_parent_though_another_lies_beside_it(
    copied, serving, processes_below, encoded, xrays, tmp_path
):
    home = tmp_path / "home"
    home.mkdir()
    content = encoded(xrays[0])
    with serving(copied, home, TOOLKIT_WORKERS="1", TOOLKIT_MODEL=None) as (process, url, log):
        beside_another(copied)
        os.kill(processes_below(process.pid)[-1], signal.SIGKILL)

        def answer():
            try:
                return httpx.post(f"{url}/predict", content=content, headers=RAW, timeout=30)
            except httpx.HTTPError:
                return None

        await_that(lambda: (got := answer()) is not None and got.status_code == 200, log)
        assert answer().json()["model"] == copied.name


def test_worker_answers_again_once_its_files_are_restored(copied, open_interface, encoded, xrays):
    content, kept = encoded(xrays[0]), copied.manifest.read_bytes()
    with open_interface(copied) as client:
        client.worker.model._again_s = 0.05
        expected = client.post("/predict", content=content, headers=RAW).json()
        never_unsure(copied)
        with pytest.raises(RequestError, match="gone"):
            lose(client)
        await_code(client, content, "was replaced since the service began")
        copied.manifest.write_bytes(kept)
        end = time.monotonic() + 60
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < end
        assert client.post("/predict", content=content, headers=RAW).json() == expected


def lose(client):
    """Have the model fail, as on a GPU that is gone: it is opened and proven anew."""

    def fail(_):
        raise ProviderError("gone")

    client.do(client.worker.model.run(fail))


def await_code(client, content, reason):
    end = time.monotonic() + 60
    while reason not in (found := client.get("/readyz").json()).get("detail", ""):
        assert time.monotonic() < end, found
    assert client.post("/predict", content=content, headers=RAW).status_code == 503
