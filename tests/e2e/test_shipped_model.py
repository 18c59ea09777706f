"""The model in saved_models is real: it opens, its proof holds, its figures are its own."""

from pathlib import Path

import pytest
from command_line import run
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from toolkit.model import manifest
from toolkit.runtime.session import open_model

MODELS = Path(__file__).resolve().parents[2] / "saved_models"


def test_the_shipped_model_carries_its_proof():
    predictor = open_model(MODELS, "model_saved", "cpu")
    assert predictor.meaning.classes == ("none", "minimal", "moderate", "severe")
    record = manifest.load(MODELS / "model_saved.json")
    assert record.equivalence.passed
    assert record.equivalence.inputs["real"] >= 64


def test_what_is_shipped_holds_no_xray_of_the_data_and_no_folder_of_a_machine():
    (log,) = (MODELS.parent / "logs" / "hyperparameters_tunned" / "final").glob("events.*")
    tags = [
        value.tag
        for raw in RawEventFileLoader(str(log)).Load()
        for value in Event.FromString(raw).summary.value
    ]
    assert any(tag.startswith("accuracy") for tag in tags)
    assert not [tag for tag in tags if tag.startswith("samples")]
    for path in (log, *MODELS.glob("model_saved.*")):
        assert b"site-packages" not in path.read_bytes(), path


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_figures_in_the_manifest_are_those_of_the_real_val_part(shared):
    data = shared / "data/knee"
    if not data.is_dir():
        pytest.skip("no real X-rays here")
    found = run("evaluate", "model_saved", "--data", data, "--part", "val", "--models", MODELS)
    kept = manifest.load(MODELS / "model_saved.json").training.metrics["val"]
    assert found["n"] == kept["n"] == 673
    assert found["confusion_matrix"] == kept["confusion_matrix"]
    assert found["accuracy"] == pytest.approx(kept["accuracy"])
