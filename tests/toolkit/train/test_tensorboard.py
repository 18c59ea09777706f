"""What TensorBoard is given of a training, read back from its files."""

import errno
import io
import json
import threading

import numpy as np
import pytest
import torch
from command_line import ok
from PIL import Image

from toolkit.errors import UsageError
from toolkit.train.health import denormal
from toolkit.train.tensorboard import Log


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished training of six epochs, and its logs."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path_factory.mktemp("run")
    ok("data", "generate", folder / "xrays", "--count", 48)
    words = ("train", "--data", "xrays", "--name", "m", "--epochs", 6, "--layer-size", 4)
    ok(*words, cwd=folder)
    size = {"images": 0, "histograms": 0, "tensors": 0, "scalars": 0}
    events = EventAccumulator(str(folder / "logs/hyperparameters_tunned/m"), size).Reload()
    return folder, events


def pictures(events, tag):
    return [Image.open(io.BytesIO(each.encoded_image_string)) for each in events.Images(tag)]


def test_samples_of_every_class_are_shown_above_their_edge_maps(run):
    _, events = run
    tags = [each for each in events.Tags()["images"] if each.startswith("samples/")]
    assert {each.split("/")[1] for each in tags} == {"none", "minimal", "moderate", "severe"}
    (picture,) = pictures(events, tags[0])
    pixels = np.asarray(picture.convert("L")).astype(float)
    assert pixels.shape[0] == 448 and pixels.shape[1] % 224 == 0
    # Edges are sparse: darker than the X-ray.
    assert pixels[224:].mean() < 0.7 * pixels[:224].mean()


def test_confusions_and_reports_come_every_five_epochs_and_at_the_end(run):
    _, events = run
    assert [each.step for each in events.Images("val/confusion")] == [4, 5]
    (first, _) = (each.tensor_proto.string_val[0].decode() for each in events.Tensors(REPORT))
    assert first.startswith("accuracy ") and "| severe |" in first


REPORT = "val/report/text_summary"


def test_the_weights_histograms_and_the_share_of_denormals_are_there(run):
    _, events = run
    names = events.Tags()["histograms"]
    assert "weights/imagesClassifier.0.weight" in names and len(names) == 24
    assert [each.step for each in events.Scalars("weights/denormal_share")] == [4, 5]


def test_the_hparams_page_has_the_recipe_and_the_final_figures(run):
    from tensorboard.plugins.hparams import plugin_data_pb2

    folder, events = run
    record = json.loads((folder / "saved_models/m.json").read_text())["training"]
    for part, figures in record["metrics"].items():
        (value,) = events.Scalars(f"final/{part}_accuracy")
        assert value.value == pytest.approx(figures["accuracy"])
        (mean,) = events.Scalars(f"final/{part}_mean_auroc")
        known = [each for each in figures["auroc"] if each is not None]
        assert mean.value == pytest.approx(np.mean(known))
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["preset"].string_value == "default"
    assert start.hparams["lr"].number_value == record["recipe"]["lr"]
    assert [each.step for each in events.Scalars("accuracy/val")] == list(range(6))


def test_denormals_are_told_though_arithmetic_flushes_them():
    # Made of bits: another test may have had them flushed.
    bits = [0, 0x80000000, 1, 0x800AE398, 0x007FFFFF, 0x00800000, 0x3F800000, 0xC0000000]
    weights = torch.from_numpy(np.array(bits, np.uint32).view(np.float32))
    expected = [False, False, True, True, True, False, False, False]
    torch.set_flush_denormal(True)
    try:
        assert denormal(weights).tolist() == expected
    finally:
        torch.set_flush_denormal(False)
    assert denormal(weights).tolist() == expected


def test_a_log_that_cannot_be_closed_is_one_error_and_leaves_the_hook_of_threads(
    tmp_path, monkeypatch
):
    from torch.utils.tensorboard import SummaryWriter

    def fill_the_disk(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "close", fill_the_disk)
    before = threading.excepthook
    with pytest.raises(UsageError, match="No space left on device"), Log(tmp_path / "log", 0):
        pass
    assert threading.excepthook is before
