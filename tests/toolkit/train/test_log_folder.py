"""The TensorBoard log belongs to the model: what else happens under its name leaves it alone."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from toolkit.commands.train import train
from toolkit.errors import InterruptedRunError, UsageError
from toolkit.model.files import ModelFiles
from toolkit.train.log_folder import log_folder, sole_training

LOGS = "logs/hyperparameters_tunned"


@pytest.fixture
def write(tmp_path):
    """Return a function that makes the log of a model, or of its unfinished training."""

    def write(suffix, text):
        folder = tmp_path / LOGS / f"m{suffix}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "events.out.tfevents.1").write_text(text)

    return write


def texts(folder):
    return {
        path.parent.name.removeprefix("m"): path.read_text()
        for path in (folder / LOGS).glob("m*/events.*")
    }


def test_a_log_is_replaced_when_the_model_is_and_goes_with_the_former(tmp_path, write):
    log = log_folder(tmp_path / "logs", "m")
    write("", "first")
    write(".previous", "older")
    write(".unfinished", "second")
    log.replace()
    assert texts(tmp_path) == {"": "second", ".previous": "first"}
    log.keep_previous()
    assert texts(tmp_path) == {".previous": "second"}
    log.keep_previous()
    assert texts(tmp_path) == {}


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_change_of_logs_that_was_killed_is_ended_by_the_next(
    tmp_path, write, monkeypatch, stopped
):
    log = log_folder(tmp_path / "logs", "m")
    write("", "first")
    write(".unfinished", "second")
    done, replace = [], Path.replace

    def counted(path, target):
        done.append(path)
        if len(done) > stopped:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted)
        with pytest.raises(KeyboardInterrupt):
            log.replace()
    log.replace()
    assert texts(tmp_path) == {"": "second", ".previous": "first"}


@pytest.mark.parametrize("name", ["final", "final.previous"])
def test_no_model_takes_the_place_of_the_default_models_log(tmp_path, name):
    assert log_folder(tmp_path, "model_saved").path.name == "final"
    assert log_folder(tmp_path, "model_saved.previous").path.name == "final.previous"
    assert log_folder(tmp_path, "finale").path.name == "finale"
    with pytest.raises(UsageError, match="is the log of model_saved"):
        log_folder(tmp_path, name)


@pytest.mark.parametrize(("models", "logs"), [("m", "l"), ("m", "l2"), ("m2", "l")])
def test_a_second_user_of_a_model_or_of_its_log_is_told_whose_it_is(tmp_path, models, logs):
    script = """
import sys
from functools import partial
from pathlib import Path
from toolkit.model.files import ModelFiles
from toolkit.train.log_folder import log_folder, sole_training
with sole_training(ModelFiles(Path("m"), "knee"), log_folder(Path("l"), "knee")):
    print("in", flush=True)
    sys.stdin.read()
"""
    first = subprocess.Popen(
        [sys.executable, "-c", script],
        **{"cwd": tmp_path, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True},
    )
    assert first.stdout.readline() == "in\n"
    files, log = ModelFiles(tmp_path / models, "knee"), log_folder(tmp_path / logs, "knee")
    with (
        pytest.raises(UsageError, match=f"in use by process {first.pid} on .* since .*--name"),
        sole_training(files, log),
    ):
        pass
    # A killed one leaves its file, which keeps nobody out.
    first.kill()
    first.communicate()
    with sole_training(files, log):
        pass
    assert not list(files.folder.glob("*.lock"))


def test_a_training_replaces_the_log_at_its_end_alone(tmp_path, tiny, write, monkeypatch):
    """Neither a training that cannot start, nor one that is stopped, costs the model's curves."""
    settings = {"name": "m", "layer_size": 2, "epochs": 1, "batch_size": 16, "device": "cpu"}
    run = partial(train, **settings, logs=tmp_path / "logs")
    monkeypatch.setattr("toolkit.commands.options.data.load", lambda *_: tiny)
    write("", "first")
    with pytest.raises(UsageError, match="cannot write"):
        run(models=Path("/proc/nowhere"))
    assert texts(tmp_path) == {"": "first"}

    def stop(*_):
        with pytest.raises(UsageError, match="in use by process"):
            run(models=tmp_path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("toolkit.train.tensorboard.Log.add_epoch", stop)
        with pytest.raises(InterruptedRunError, match="--resume goes on"):
            run(models=tmp_path)
    assert (tmp_path / LOGS / "m.unfinished").is_dir()
    assert (tmp_path / LOGS / "m" / "events.out.tfevents.1").read_text() == "first"
    run(models=tmp_path, resume=True)
    assert {path.name for path in (tmp_path / LOGS).iterdir()} == {"m", "m.previous"}
    assert (tmp_path / LOGS / "m.previous" / "events.out.tfevents.1").read_text() == "first"
    # Of the stopped training and of the one that went on.
    assert len([*(tmp_path / LOGS / "m").glob("events.*")]) == 2
