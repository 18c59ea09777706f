import io
import os
import pickle
import random
import zipfile
from types import SimpleNamespace

import pytest
import torch

from toolkit.errors import CheckpointError, UsageError
from toolkit.model.files import ModelFiles
from toolkit.model.records import NetworkRecord
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.train.checkpoint import load, load_network, load_trained, read_weights, save


def network(size=2, classes=4):
    torch.manual_seed(0)
    return IntermediarySpaceModel(size, 0.5, classes)


def record(size=2):
    return NetworkRecord(size, 0.5, sum(map(torch.numel, network(size).parameters())))


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_come_back_bit_for_bit(tmp_path):
    state = network().state_dict()
    save(state, tmp_path / "m.pt")
    found = load(tmp_path / "m.pt")
    assert list(found) == list(state)
    assert all(torch.equal(found[key], state[key]) for key in state)
    loaded = load_network(tmp_path / "m.pt", record(), 4)
    assert not loaded.training
    assert all(torch.equal(loaded.state_dict()[key], state[key]) for key in state)


class Bomb:
    """What a malicious file holds: unpickling it runs a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_file_that_would_run_a_command_is_refused_and_nothing_runs(tmp_path, kind):
    trace, path = tmp_path / "it-ran", tmp_path / "m.pt"
    content = {"weight": torch.zeros(2), "bomb": Bomb(trace)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    refusal(path)
    assert not trace.exists()
    # The bomb is live: whoever loads it carelessly runs it.
    torch.load(path, weights_only=False) if kind != "pickle" else pickle.loads(path.read_bytes())
    assert trace.exists()


@pytest.mark.parametrize("content", [b"", b"x", b"PK\x03\x04", bytes(1000), b"\x80\x02.", b"{}"])
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "m.pt").write_bytes(content)
    refusal(tmp_path / "m.pt")


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused_in_one_line(tmp_path, kept):
    path = tmp_path / "m.pt"
    save(network().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert "corrupt" in refusal(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_whatever_bytes_are_damaged_it_is_a_checkpoint_or_refused(tmp_path, legacy):
    stream = io.BytesIO()
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": {"step": 3, "names": ["x", None]}}
    torch.save(state, stream, _use_new_zipfile_serialization=not legacy)
    content = stream.getvalue()
    draw = random.Random(7)
    path = tmp_path / "m.pt"
    refusals = []
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(draw.choice([1, 1, 4])):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            load(path)
        except CheckpointError as error:
            refusals.append(str(error))
    assert len(refusals) > 50
    assert not any("\n" in each for each in refusals)


def test_a_missing_checkpoint_says_how_to_get_one(tmp_path):
    message = refusal(tmp_path / "gone.pt")
    assert "toolkit train" in message


def test_a_folder_and_a_pipe_are_told_to_be_no_file_and_hold_nobody(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    for path in (tmp_path, tmp_path / "pipe.pt"):
        assert "is no file" in refusal(path)
        with pytest.raises(CheckpointError, match="is no file"):
            read_weights(path)


def test_a_tensor_alone_is_no_state_dict(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "m.pt")
    assert "state_dict" in refusal(tmp_path / "m.pt")


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.popitem(),
        lambda state: state.update(more=torch.zeros(1)),
        lambda state: state.update({next(iter(state)): torch.zeros(1)}),
        lambda state: state.update({next(iter(state)): "text"}),
        lambda state: state.update({next(iter(state)): None}),
        lambda state: state.clear(),
        lambda state: state.update({3: torch.zeros(1)}),
    ],
)
def test_weights_of_another_network_are_refused_in_one_line(tmp_path, change):
    state = dict(network().state_dict())
    change(state)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"m\.pt does not fit .*S = 2, 4 classes") as caught:
        load_network(tmp_path / "m.pt", record(), 4)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize(
    ("size", "classes", "dropout"),
    [(3, 4, 0.5), (2, 5, 0.5), (0, 4, 0.5), (-1, 4, 0.5), (2, 0, 0.5), (2, 4, 7.0), (2, 4, -1.0)],
)
def test_a_manifest_of_another_network_is_refused_in_one_line(tmp_path, size, classes, dropout):
    save(network().state_dict(), tmp_path / "m.pt")
    with pytest.raises(
        CheckpointError, match=rf"m\.pt does not fit.*S = {size}, {classes} classes"
    ):
        load_network(tmp_path / "m.pt", NetworkRecord(size, dropout, 1), classes)


def test_a_full_disk_is_one_clear_line_and_leaves_the_old_checkpoint(full_disk, tmp_path):
    path = tmp_path / "m.pt"
    save({"weight": torch.ones(3)}, path)
    before = path.read_bytes()
    with full_disk(100_000), pytest.raises(UsageError) as refused:
        save({"weight": torch.ones(1_000_000)}, path)
    assert str(refused.value).startswith(f"cannot write {path}")
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["m.pt"]


def test_a_folder_that_cannot_be_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot write"):
        save({}, tmp_path / "file" / "m.pt")


@pytest.mark.parametrize("name", ["archive/data.pkl", "archive/data/0"])
def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(tmp_path, name):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(2**26))
    assert "is compressed" in refusal(path)


def test_a_checkpoint_that_is_not_the_manifests_is_refused_before_it_is_read(tmp_path, monkeypatch):
    files = ModelFiles(tmp_path, "m")
    save(network().state_dict(), files.checkpoint)
    known = SimpleNamespace(training=SimpleNamespace(checkpoint_sha256="0" * 64))
    monkeypatch.setattr("torch.load", None)
    with pytest.raises(CheckpointError, match="its SHA-256 differs"):
        load_trained(files, known)
    files.checkpoint.unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*toolkit train"):
        load_trained(files, known)
