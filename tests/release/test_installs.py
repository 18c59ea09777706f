"""Each extra of the wheel, installed in a clean environment, does what it is for."""

import json
import re
import shlex
import subprocess
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from toolkit.cli import app

pytestmark = [pytest.mark.full, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[2]


def commands():
    """Every command of the toolkit, as the words that name it."""

    def named(command, words):
        yield words
        for name, each in getattr(command, "commands", {}).items():
            yield from named(each, (*words, name))

    return sorted(named(get_command(app), ()))


def extra_of(line):
    found = re.search(r"pip install 'toolkit\[([a-z,]+)\]'", line)
    assert found, line
    return found[1]


def rows(place):
    from pyarrow import parquet

    return parquet.read_table(place / "rows.parquet")["path"].to_pylist()


def dicom_file(path):
    """Write an X-ray as DICOM."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    pixels = np.random.default_rng(0).integers(0, 4096, (300, 300), np.uint16)
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.SOPClassUID = DigitalXRayImageStorageForPresentation
    found.SOPInstanceUID = "1.2.3"
    found.Rows, found.Columns = pixels.shape
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit = 16, 12, 11
    found.PixelRepresentation = 0
    found.PixelData = pixels.tobytes()
    found.save_as(path, enforce_file_format=True)


@contextmanager
def serving(environment, place, port, await_status):
    """The service of an installed wheel, ready; yields its address."""
    command = [environment.folder / "bin/bentoml", "serve", "bento.service:XrayClassifier"]
    command += ["--host", "127.0.0.1", "-p", str(port)]
    log, url = place / "log", f"http://127.0.0.1:{port}"
    clean = {"PATH": "/usr/bin:/bin", "TOOLKIT_WORKERS": "1", "BENTOML_HOME": str(place / "home")}
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=place, env=clean, stdout=out, stderr=out)
    try:
        await_status(url, 200, process, log)
        yield url
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_its_help_in_a_base_install(installed, place, words):
    shown = installed().run("toolkit", *words, "--help", cwd=place).stdout
    assert "Usage:" in shown and "--help" in shown


@pytest.mark.parametrize(
    ("line", "extra"),
    [
        ("train", "train"),
        ("tune", "train"),
        ("tune report", "train"),
        ("import some.pt", "train"),
        ("evaluate model_saved --data xrays", "train"),
        ("export onnx", "train"),
        ("verify", "train"),
        ("benchmark", "train"),
        ("package", "serve"),
        ("explain model_saved xray.png", "cpu"),
        ("predict model_saved xray.png", "cpu"),
        ("predict model_saved . --out rows.parquet", "batch"),
        ("predict model_saved . --out rows.parquet --engine ray", "batch"),
    ],
)
def test_a_command_that_misses_an_extra_says_in_one_line_which(installed, place, line, extra):
    done = installed().run("toolkit", *shlex.split(line), cwd=place, check=False)
    assert done.returncode == 2 and not done.stdout
    (said,) = [each for each in done.stderr.splitlines() if each.startswith("error:")]
    assert extra_of(said) == extra
    assert "Traceback" not in done.stderr


def test_a_base_install_generates_xrays_and_shows_what_is_known_of_a_model(installed, place):
    base = installed()
    base.run("toolkit", "data", "generate", "xrays", "--count", "12", cwd=place)
    assert "12 X-rays" in base.run("toolkit", "data", "inspect", "xrays", cwd=place).stdout
    assert "accuracy" in base.run("toolkit", "card", cwd=place).stdout


def test_the_extra_cpu_predicts_and_explains_without_pytorch(installed, place):
    cpu = installed("cpu")
    done = cpu.run("toolkit", "predict", "model_saved", "xray.png", "--json", cwd=place)
    (result,) = json.loads(done.stdout)["results"]
    assert result["label"] == "severe" and len(result["probabilities"]) == 4
    cpu.run("toolkit", "explain", "model_saved", "xray.png", cwd=place)
    assert (place / "heat.png").is_file()
    assert not cpu.packages() & {"torch", "optuna", "onnx", "tensorboard", "bentoml", "pyarrow"}


def test_the_extra_dicom_reads_what_a_base_install_refuses_with_its_line(installed, place):
    dicom_file(place / "knee.dcm")
    arguments = ("toolkit", "predict", "model_saved", "knee.dcm", "--json")
    refused = installed("cpu").run(*arguments, cwd=place, check=False)
    assert refused.returncode == 2
    (without,) = json.loads(refused.stdout)["results"]
    assert extra_of(without["error"]) == "dicom"
    (result,) = json.loads(installed("cpu", "dicom").run(*arguments, cwd=place).stdout)["results"]
    assert result["probabilities"]


def test_the_extra_batch_writes_parquet_and_names_the_extra_of_the_other_engine(installed, place):
    batch = installed("cpu", "batch")
    arguments = ("toolkit", "predict", "model_saved", "*.png", "--out", "rows.parquet")
    done = batch.run(*arguments, "--engine", "ray", cwd=place, check=False)
    assert extra_of(done.stderr) == "ray"
    batch.run(*arguments, "--workers", "1", cwd=place)
    assert rows(place) == ["xray.png"]


def test_the_extra_ray_writes_parquet_through_ray(installed, place):
    arguments = ("predict", "model_saved", "*.png", "--out", "rows.parquet", "--engine", "ray")
    installed("cpu", "ray").run("toolkit", *arguments, "--workers", "1", cwd=place)
    assert rows(place) == ["xray.png"]


def test_the_extra_serve_serves_far_from_the_source(installed, place, free_port, await_status):
    serve, port = installed("cpu", "serve"), free_port()
    assert not serve.packages() & {"torch", "optuna", "onnx", "tensorboard"}
    with serving(serve, place, port, await_status) as url:
        asked = serve.run("toolkit", "predict", url, "xray.png", "--json", cwd=place)
        (result,) = json.loads(asked.stdout)["results"]
        assert result["label"] == "severe"
        with urllib.request.urlopen(f"{url}/app") as page:
            assert b"<script" in page.read()


def test_the_extra_train_has_every_module_and_trains(installed, place):
    train = installed("cpu", "train")
    modules = "import importlib, sys; [importlib.import_module(each) for each in sys.argv[1:]]"
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("export", "toolkit")
        for path in sorted((ROOT / package).rglob("[a-z]*.py"))
    ]
    train.run("python", "-c", modules, *names, cwd=place)
    train.run("toolkit", "data", "generate", "xrays", "--count", "30", cwd=place)
    small = ("--epochs", "1", "--layer-size", "4", "--batch-size", "8")
    train.run("toolkit", "train", "--name", "small", "--data", "xrays", *small, cwd=place)
    assert (place / "saved_models/small.pt").is_file()
