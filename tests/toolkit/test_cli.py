"""The installed `toolkit`, in processes of its own: what it prints, where, and how it exits."""

import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolkit import cli

TOOLKIT = Path(sys.executable).with_name("toolkit")
TINY = ("--layer-size", "2", "--epochs", "1", "--batch-size", "64")


def _environment(**more):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TOOLKIT_", "PYTHONPATH"))}
    # One thread: two would wait for each other on a busy machine.
    return clean | {"OMP_NUM_THREADS": "1"} | more


def run(*arguments, cwd=None, limit=None, **environment):
    """Run `toolkit`; `limit` is the largest file in bytes that it may write: a disk soon full."""

    def full_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [TOOLKIT, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=_environment(**environment),
        preexec_fn=full_disk if limit else None,
        timeout=120,
    )


def ok(*arguments, **more):
    """The JSON object of a command that must succeed, and what it said on stderr."""
    done = run(*arguments, "--json", **more)
    assert done.returncode == 0, done.stderr
    return json_of(done), done.stderr


def json_of(done):
    """The one JSON object on stdout."""
    assert done.stdout.count("\n") == 1, done.stdout
    content = json.loads(done.stdout)
    assert isinstance(content, dict)
    return content


def here(*arguments):
    """Run the command line in this process: as `run` without the seconds that torch takes.

    An exception that would be a traceback there fails the test here.
    """
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["toolkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return subprocess.CompletedProcess(arguments, ended.value.code, out.getvalue(), err.getvalue())


def refused(*arguments, runner=run, **more):
    """The one line of a command that must be refused, and the same in JSON."""
    done = runner(*arguments, "--json", **more)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and done.stderr.rstrip().endswith(errors[0]), done.stderr
    message = errors[0].removeprefix("error: ")
    assert json_of(done) == {"error": message}
    return message


def _interruptible(arguments, line):
    """Start `toolkit`, send Ctrl-C after the first line that begins so, and wait for its end."""
    process = subprocess.Popen(
        [TOOLKIT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
        # A shell's background jobs, and so their children, ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    said = []
    for each in process.stderr:
        said.append(each)
        if each.startswith(line):
            process.send_signal(signal.SIGINT)
            break
    said.append(process.stderr.read())
    out = process.stdout.read()
    return process.wait(60), out, "".join(said)


@pytest.fixture(scope="session")
def xrays(tmp_path_factory):
    """A folder of 60 generated X-rays."""
    folder = tmp_path_factory.mktemp("cli") / "xrays"
    content, _ = ok("data", "generate", folder, "--count", 60)
    assert content["count"] == 60
    return folder


@pytest.fixture(scope="session")
def trained(xrays, tmp_path_factory):
    """What training said: folder of models, of logs, the JSON and stderr."""
    folder = tmp_path_factory.mktemp("trained")
    models, logs = folder / "models", folder / "logs"
    content, err = ok(
        *("train", "--data", xrays, "--models", models, "--logs", logs, "--name", "tiny"),
        *("--layer-size", 2, "--epochs", 2, "--batch-size", 8, "--lr", "0.01"),
    )
    return models, logs, content, err


@pytest.fixture(scope="session")
def exported(trained):
    """The folder of the model after its export, and what that said."""
    models = trained[0]
    content, err = ok("export", "onnx", "tiny", "--allow-dead-input", "--models", models)
    return models, content, err


@pytest.fixture
def models(exported, tmp_path):
    """The exported model in a folder of its own, to be changed."""
    return Path(shutil.copytree(exported[0], tmp_path / "models"))


@pytest.fixture
def without_torch(tmp_path):
    """An environment where torch and all that comes with it cannot be imported."""
    for name in ("torch", "onnx", "onnxscript", "tensorboard", "optuna"):
        (tmp_path / "hidden" / name).mkdir(parents=True)
        (tmp_path / "hidden" / name / "__init__.py").write_text(
            f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')\n"
        )
    return {"PYTHONPATH": str(tmp_path / "hidden")}


def _installed(folder, *distributions):
    """An environment where those distributions seem to be installed."""
    for name in distributions:
        info = folder / f"{name.replace('-', '_')}-1.31.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.0\n")
    return {"PYTHONPATH": str(folder)}


# --- help and use


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("train",),
        ("evaluate",),
        ("export",),
        ("predict",),
        ("data",),
        ("data", "generate"),
        ("data", "inspect"),
    ],
)
def test_help_is_had_without_importing_anything_heavy(arguments):
    script = (
        "import sys\nfrom toolkit import cli\n"
        f"sys.argv = ['toolkit', *{list(arguments)!r}, '--help']\n"
        "try:\n    cli.main()\n"
        "except SystemExit as ended:\n"
        "    heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'bentoml', 'optuna', 'PIL'}\n"
        "    print('exit', ended.code, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "exit 0 []", done.stdout + done.stderr
    if arguments not in ((), ("data",)):
        assert "--json" in done.stdout


@pytest.mark.full
def test_help_takes_under_half_a_second():
    times = []
    for _ in range(7):
        start = time.perf_counter()
        assert run("--help").returncode == 0
        times.append(time.perf_counter() - start)
    assert sorted(times)[3] < 0.5, times


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), "nonsense"),
        (("data", "nonsense"), "nonsense"),
        (("train", "--nonsense"), "--nonsense"),
        (("export", "tensorflow"), "tensorflow"),
        (("evaluate", "tiny"), "--data"),
        (("predict", "tiny"), "FILE"),
        (("train", "--preset", "best"), "best"),
        (("train", "--labels", "two"), "two"),
        (("train", "--split", "random"), "random"),
        (("train", "--device", "tpu"), "tpu"),
        (("train", "--epochs", "many"), "--epochs"),
        (("train", "--seed", "-1"), "seed"),
        (("data", "generate", "x", "--count", "0"), "count"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(arguments, said, tmp_path):
    assert said in refused(*arguments, cwd=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--layer-size", "0"),
        ("--layer-size", "100000000"),
        ("--epochs", "0"),
        ("--batch-size", "-3"),
        ("--dropout", "1"),
        ("--dropout", "nan"),
        ("--lr", "0"),
        ("--lr", "nan"),
        ("--lr", "inf"),
        ("--seed", "99999999999999999999999"),
    ],
)
def test_value_out_of_its_range_is_named(xrays, tmp_path, option, value):
    arguments = ("train", "--data", xrays, "--models", tmp_path, "--logs", tmp_path)
    message = refused(*arguments, option, value, runner=here)
    assert option.removeprefix("--").replace("-", "") in re.sub("[-_]", "", message)
    assert not list(tmp_path.iterdir())


# --- data


def test_generate_and_inspect_agree_on_what_there_is(xrays):
    content, _ = ok("data", "inspect", xrays)
    assert content["xrays"] == 60 and content["patients"] == 30
    assert content["crossing_patients"] == content["unreadable"] == []
    assert set(content["counts"]) == {"train", "val", "test"}
    totals = np.sum(list(content["counts"].values()), axis=0)
    assert totals.tolist() == [15, 0, 15, 15, 15]


def test_generate_draws_the_same_bytes_again_and_refuses_a_folder_in_use(xrays, tmp_path):
    content, _ = ok("data", "generate", tmp_path / "new", "--count", 60, "--seed", 0)
    assert sum(content["parts"].values()) == 60
    files = sorted(path.relative_to(xrays) for path in xrays.rglob("*.png"))
    assert len(files) == 60
    assert all((tmp_path / "new" / f).read_bytes() == (xrays / f).read_bytes() for f in files)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    assert "is not empty" in refused("data", "generate", tmp_path / "used")
    assert "is not empty" in refused("data", "generate", tmp_path / "used" / "file")
    assert (tmp_path / "used" / "file").read_text() == "mine"


def test_inspect_names_unreadable_files_and_crossing_patients(png_folder):
    folder = png_folder("train/0/7L", "test/2/7R", "train/2/8L", "val/3/9L")
    (folder / "train" / "0" / "bad.png").write_bytes(b"no image")
    content, _ = ok("data", "inspect", folder)
    assert content["crossing_patients"] == ["7"]
    assert content["counts"]["train"] == [1, 0, 1, 0, 0] and content["xrays"] == 4
    (unreadable,) = content["unreadable"]
    assert unreadable["file"] == str(folder / "train" / "0" / "bad.png")
    assert "not a PNG, JPEG or DICOM" in unreadable["error"]
    done = run("data", "inspect", folder)
    assert (
        done.returncode == 0 and "bad.png" in done.stdout and "more than one part: 7" in done.stdout
    )


@pytest.mark.parametrize(
    "arguments", [("data", "inspect"), ("evaluate", "tiny", "--data"), ("train", "--data")]
)
def test_missing_data_folder_is_one_line(exported, tmp_path, arguments):
    more = ("--models", exported[0]) if arguments[0] != "data" else ()
    message = refused(*arguments, tmp_path / "nowhere", *more, runner=here)
    assert f"no data folder at {tmp_path / 'nowhere'}" in message
    (tmp_path / "empty").mkdir()
    if arguments[0] == "data":
        assert "no X-rays in" in refused(*arguments, tmp_path / "empty")


# --- train


def test_training_writes_model_manifest_and_curves(trained):
    models, logs, content, err = trained
    assert content["name"] == "tiny" and content["epochs"] == 2
    assert Path(content["checkpoint"]) == models / "tiny.pt"
    assert Path(content["manifest"]) == models / "tiny.json"
    assert (models / "tiny.pt").is_file() and (models / "tiny.json").is_file()
    assert not (models / "tiny.resume.pt").exists()
    assert re.findall(r"^epoch (\d)/2  train .*%  val .*%  loss \d", err, re.MULTILINE) == [
        "1",
        "2",
    ]
    assert set(content["metrics"]) == {"train", "val", "test"}
    assert content["faults"] == [] and "fault of the study" not in err
    for events in Path(content["logs"]).rglob("events.out.tfevents.*"):
        assert events.is_relative_to(logs) and events.stat().st_size > 100


def test_a_training_by_the_studys_preset_ends_with_the_faults_that_it_repeats(xrays, tmp_path):
    places = ("--models", tmp_path / "m", "--logs", tmp_path / "l")
    content, err = ok("train", "--preset", "study", "--data", xrays, *TINY, *places)
    warnings = re.findall(r"^warning: fault of the study, .*: (.*)$", err, re.MULTILINE)
    assert warnings == content["faults"]
    assert warnings[-1].startswith("8, dropout is on in the first epochs only")


def test_training_without_data_says_that_it_draws_xrays(tmp_path):
    code, _, err = _interruptible(["train", "--models", tmp_path, "--logs", tmp_path], "no --data")
    assert code == 130 and "Traceback" not in err
    assert "no --data given: training on 800 generated X-rays" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.full
def test_training_without_data_trains_on_drawn_xrays(tmp_path):
    content, err = ok("train", *TINY, "--models", tmp_path / "m", "--logs", tmp_path / "l")
    assert "no --data given: training on 800 generated X-rays" in err
    assert content["name"] == "model_saved" and (tmp_path / "m" / "model_saved.pt").is_file()
    assert "final" in content["logs"]


def test_ctrl_c_saves_and_resume_finishes_and_former_files_are_kept(xrays, tmp_path):
    arguments = ["train", "--data", xrays, "--models", tmp_path / "m", "--logs", tmp_path / "l"]
    arguments += [
        "--name",
        "broken",
        "--layer-size",
        2,
        "--epochs",
        8,
        "--batch-size",
        16,
        "--json",
    ]
    code, out, err = _interruptible(arguments, "epoch 1/8")
    assert code == 130, err
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    stopped = re.fullmatch(r"error: (stopped after epoch (\d+) of 8: .*--resume goes on)", last)
    assert stopped, err
    assert json.loads(out) == {"error": stopped[1]}, "one JSON object, even then"
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["broken.resume.pt"]

    done = run(*arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert f"resuming broken after epoch {stopped[2]} of 8" in done.stderr
    assert f"epoch {int(stopped[2]) + 1}/8" in done.stderr
    assert json_of(done)["epochs"] == 8
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "broken.json",
        "broken.pt",
        "broken.scope.pt",
    ]

    # To the same weights as an unbroken run, which keeps the former files beside its own.
    done = run(*arguments)
    assert done.returncode == 0 and "the former broken is kept as broken.previous.*" in done.stderr
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "broken.json",
        "broken.previous.json",
        "broken.previous.pt",
        "broken.previous.scope.pt",
        "broken.pt",
        "broken.scope.pt",
    ]
    hashes = [
        json.loads((tmp_path / "m" / name).read_text())["training"]["checkpoint_sha256"]
        for name in ("broken.json", "broken.previous.json")
    ]
    assert hashes[0] == hashes[1]


def test_ctrl_c_anywhere_else_is_a_line_too(trained, tmp_path):
    models = shutil.copytree(trained[0], tmp_path / "m")
    arguments = [
        "export",
        "onnx",
        "tiny",
        "--allow-dead-input",
        "--models",
        models,
        "--out",
        tmp_path / "out",
    ]
    code, out, err = _interruptible([*arguments, "--json"], "exporting")
    assert code == 130 and "Traceback" not in err, err
    assert err.strip().splitlines()[-1] == "error: stopped"
    assert json.loads(out) == {"error": "stopped"}
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_nothing_to_resume_is_one_line(xrays, tmp_path):
    message = refused(
        "train", "--data", xrays, *TINY, "--resume", "--models", tmp_path, runner=here
    )
    assert "nothing to resume" in message


def test_unreadable_training_files_are_named_and_counted(xrays, tmp_path):
    folder = shutil.copytree(xrays, tmp_path / "data")
    for index in range(12):
        (folder / "train" / "0" / f"bad{index:02}.png").write_bytes(b"no image")
    _, err = ok("train", "--data", folder, *TINY, "--models", tmp_path, "--logs", tmp_path)
    assert f"{folder / 'train' / '0' / 'bad00.png'}" in err
    assert "... and 2 more" in err
    assert "skipped 12 files that cannot be read" in err


def test_class_that_is_empty_in_training_is_an_error(png_folder, tmp_path):
    folder = png_folder("train/0/1L", "train/2/2L", "train/4/3L", "val/3/4L")
    message = refused("train", "--data", folder, *TINY, "--models", tmp_path, runner=here)
    assert "no X-ray of class moderate in the part 'train'" in message


def test_split_that_is_not_the_studys_is_warned_of(xrays, tmp_path):
    _, err = ok(
        *("train", "--data", xrays, *TINY, "--split", "study"),
        *("--models", tmp_path, "--logs", tmp_path),
    )
    assert "warning: this is not the study's split: it has 6765 X-rays, here are 60" in err
    assert re.search(r"warning: \d+ patients have X-rays in more than one part", err)


# --- export


def test_export_says_what_it_wrote_and_how_equal_it_is(exported):
    models, content, err = exported
    assert content["passed"] is True and "exporting tiny" in err
    assert {Path(path).name for path in content["artifacts"].values()} == {
        "tiny.onnx",
        "tiny.explainer.onnx",
        "tiny.pipeline.onnx",
    }
    assert all(Path(path).parent == models for path in content["artifacts"].values())
    for leg in content["legs"].values():
        assert leg["argmax_agreement"] == 1.0 and leg["samples"] >= 64
        assert all(0 <= each["max_abs"] < 1e-3 for each in leg["outputs"].values())


# --- evaluate


def test_evaluation_has_every_figure_and_torch_and_onnx_agree(exported, xrays):
    models = exported[0]
    arguments = ("--data", xrays, "--part", "all")
    content, _ = ok("evaluate", "tiny", *arguments, "--models", models)
    names = "n accuracy balanced_accuracy quadratic_weighted_kappa recall precision"
    assert {*names.split(), "confusion_matrix", "intervals"} <= set(content)
    matrix = np.array(content["confusion_matrix"])
    assert matrix.shape == (4, 4) and matrix.sum() == content["n"] == 60
    assert matrix.sum(axis=1).tolist() == [15, 15, 15, 15], "rows are the true class"
    assert content["accuracy"] == pytest.approx(np.trace(matrix) / 60)
    assert content["recall"] == pytest.approx((np.diag(matrix) / 15).tolist())
    low, high = content["intervals"]["accuracy"]
    assert low <= content["accuracy"] <= high

    onnx, _ = ok("evaluate", models / "tiny.pipeline.onnx", *arguments)
    assert onnx == content
    path, _ = ok("evaluate", models / "tiny.pt", *arguments)
    assert path == content


def test_a_file_is_judged_itself_or_refused(models, xrays):
    arguments = ("--data", xrays, "--part", "all")
    shutil.copy(models / "tiny.pipeline.onnx", models / "tiny.fp16.pipeline.onnx")
    line = refused("evaluate", models / "tiny.fp16.pipeline.onnx", *arguments, runner=here)
    assert "no exported fp16" in line
    for ending in ("onnx", "explainer.onnx", "golden.npz"):
        line = refused("evaluate", models / f"tiny.{ending}", *arguments, runner=here)
        assert "takes no X-rays" in line


def test_parts_that_the_training_did_not_draw_are_never_taken_for_its_own(exported, png_folder):
    """The model was trained on a split by patient; the parts of other data are not its parts."""
    flat = png_folder(*(f"{grade}/{9000000 + place}L" for grade in (0, 2) for place in range(20)))
    line = refused("evaluate", "tiny", "--data", flat, "--models", exported[0], runner=here)
    assert "not the data that tiny's parts were drawn from: use --part all" in line


def test_part_that_is_missing_is_named_and_missing_classes_are_null(exported, png_folder):
    models = exported[0]
    folder = png_folder("val/0/1L", "val/0/2L", "val/3/3L")
    message = refused("evaluate", "tiny", "--data", folder, "--models", models, runner=here)
    assert "the data has no part 'test': it has val" in message
    content, _ = ok("evaluate", "tiny", "--data", folder, "--part", "val", "--models", models)
    assert content["n"] == 3
    assert [each is None for each in content["recall"]] == [False, True, False, True]
    defined = [each for each in content["recall"] if each is not None]
    assert content["balanced_accuracy"] == pytest.approx(np.mean(defined))


def test_flat_folder_is_evaluated_as_a_whole(exported, png_folder):
    folder = png_folder("0/1L", "2/2L", "3/3L", "4/4L", "1/5L")
    content, _ = ok("evaluate", "tiny", "--data", folder, "--part", "all", "--models", exported[0])
    assert content["n"] == 4, "grade 1 is in no class of the study's labels"


# --- predict


def test_predict_answers_every_file_and_exits_2_if_one_failed(models, xrays, tmp_path):
    good = sorted(xrays.rglob("*.png"))[:2]
    (tmp_path / "bad.png").write_bytes(b"no image")
    relative = os.path.relpath(good[1], tmp_path)
    files = [good[0], "bad.png", relative, "none.png"]
    done = run("predict", "tiny", *files, "--models", models, "--json", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    results = json_of(done)["results"]
    assert [each["file"] for each in results] == [str(each) for each in files]
    assert "not a PNG, JPEG or DICOM" in results[1]["error"] and "class" not in results[1]
    assert "cannot be read" in results[3]["error"]
    for each in (results[0], results[2]):
        assert set(each) == {
            "file",
            "class",
            "label",
            "probabilities",
            "expected_grade",
            "abstain",
            "in_scope",
        }
        assert each["class"] == int(np.argmax(each["probabilities"]))
        assert each["label"] == ["none", "minimal", "moderate", "severe"][each["class"]]
        assert sum(each["probabilities"]) == pytest.approx(1)
    done = run("predict", "tiny", good[0], "bad.png", "--models", models, cwd=tmp_path)
    assert done.returncode == 2
    assert results[0]["label"] in done.stdout and "error: " in done.stdout


def test_predict_needs_no_torch_and_takes_a_file(models, xrays, tmp_path, without_torch):
    xray = min(xrays.rglob("*.png"))
    named, err = ok("predict", "tiny", xray, "--models", models, **without_torch)
    assert err == ""
    by_path, err = ok("predict", models / "tiny.pipeline.onnx", xray, **without_torch)
    assert by_path == named and err == ""
    alone = shutil.copy(models / "tiny.pipeline.onnx", tmp_path / "alone.onnx")
    by_file, err = ok("predict", alone, xray, **without_torch)
    (known,) = named["results"]
    # When to abstain, and what is in scope, is in the manifest alone.
    del known["abstain"], known["in_scope"]
    assert by_file["results"] == [known]
    assert "no manifest beside it, so no proof was checked" in err


def test_predict_equals_torch(models, xrays):
    from export.convert.pipeline import load_pipeline
    from toolkit.model import manifest
    from toolkit.model.files import ModelFiles
    from toolkit.xray.reading import read

    torch = pytest.importorskip("torch")
    files = sorted(xrays.rglob("*.png"))[:3]
    content, _ = ok("predict", "tiny", *files, "--models", models)
    model = ModelFiles(models, "tiny")
    pipeline = load_pipeline(model, manifest.load(model.manifest))
    pixels = torch.from_numpy(np.stack([read(path) for path in files]))
    with torch.no_grad():
        expected = pipeline(pixels)[1].numpy()
    found = [each["probabilities"] for each in content["results"]]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_predict_refuses_a_file_that_was_changed(models, xrays):
    content = bytearray((models / "tiny.pipeline.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (models / "tiny.pipeline.onnx").write_bytes(content)
    xray = min(xrays.rglob("*.png"))
    for model in ("tiny", models / "tiny.pipeline.onnx"):
        message = refused("predict", model, xray, "--models", models, runner=here)
        assert "is not the file that was proven" in message


# --- met in the first hour


@pytest.mark.parametrize("command", ["train", "evaluate", "export", "predict"])
def test_missing_model_and_name_with_a_slash_are_one_line(command, xrays, tmp_path):
    def said(name):
        arguments = {
            "train": ("train", "--data", xrays, "--name", name, *TINY),
            "evaluate": ("evaluate", name, "--data", xrays),
            "export": ("export", "onnx", name),
            "predict": ("predict", name, min(xrays.rglob("*.png"))),
        }[command]
        return refused(*arguments, "--models", tmp_path / "none", runner=here)

    assert "'a/b' cannot name a model" in said("a/b")
    if command != "train":
        assert f"no model here: {tmp_path / 'none' / 'nobody.json'}" in said("nobody")


def test_corrupt_checkpoint_is_one_line(models, xrays):
    whole = (models / "tiny.pt").read_bytes()
    for content in (whole[: len(whole) // 2], b"no checkpoint"):
        (models / "tiny.pt").write_bytes(content)
        message = refused("evaluate", "tiny", "--data", xrays, "--models", models, runner=here)
        assert f"{models / 'tiny.pt'} is corrupt" in message
    assert "is corrupt" in refused(
        "export", "onnx", "tiny", "--allow-dead-input", "--models", models
    )


def test_manifest_of_a_newer_schema_is_one_line(models, xrays):
    text = (models / "tiny.json").read_text()
    (models / "tiny.json").write_text(text.replace('"schema_version": 1', '"schema_version": 2'))
    xray = min(xrays.rglob("*.png"))
    for arguments in (
        ("evaluate", "tiny", "--data", xrays),
        ("export", "onnx", "tiny"),
        ("predict", "tiny", xray),
    ):
        message = refused(*arguments, "--models", models, runner=here)
        assert "has schema version 2, this toolkit reads 1" in message


def test_missing_extra_is_named_with_its_pip_line(models, xrays, without_torch):
    for arguments in (
        ("train", "--data", xrays, *TINY),
        ("evaluate", "tiny", "--data", xrays),
        ("export", "onnx", "tiny"),
    ):
        message = refused(*arguments, "--models", models, **without_torch)
        assert message == "torch is not installed: pip install 'toolkit[train]'"


def test_missing_tensorboard_is_named_with_its_pip_line(xrays, tmp_path):
    hidden = tmp_path / "hidden" / "tensorboard"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError(name='tensorboard')\n")
    message = refused(
        *("train", "--data", xrays, *TINY, "--models", tmp_path / "m", "--logs", tmp_path / "l"),
        PYTHONPATH=str(hidden.parent),
    )
    assert message == "tensorboard is not installed: pip install 'toolkit[train]'"


def test_both_onnxruntimes_and_neither_say_what_to_do(models, xrays, tmp_path):
    xray = min(xrays.rglob("*.png"))
    both = _installed(tmp_path / "both", "onnxruntime", "onnxruntime-gpu")
    message = refused("predict", "tiny", xray, "--models", models, **both)
    assert "both installed" in message
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in message
    # A sitecustomize hides the distributions, as far as importlib.metadata is asked for them.
    (tmp_path / "neither").mkdir()
    (tmp_path / "neither" / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata\n"
        "found = metadata.Distribution.from_name\n"
        "def from_name(name):\n"
        "    if name.startswith('onnxruntime'):\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return found(name)\n"
        "metadata.Distribution.from_name = from_name\n"
    )
    for arguments in (("predict", "tiny", xray), ("export", "onnx", "tiny")):
        message = refused(*arguments, "--models", models, PYTHONPATH=str(tmp_path / "neither"))
        assert (
            "onnxruntime is not installed: pip install 'toolkit[cpu]', or 'toolkit[gpu]'" in message
        )


def test_full_disk_while_training_is_one_line_and_leaves_no_half_file(xrays, tmp_path):
    folders = ("--models", tmp_path / "m", "--logs", tmp_path / "l")
    message = refused("train", "--data", xrays, *TINY, *folders, limit=4_000)
    assert "cannot write" in message
    assert not list((tmp_path / "m").glob(".*")) and not list((tmp_path / "m").glob("*.pt"))


def test_logs_that_cannot_be_written_are_one_line(xrays, tmp_path):
    (tmp_path / "l").mkdir()
    (tmp_path / "l" / "hyperparameters_tunned").write_text("a file where a folder belongs")
    folders = ("--models", tmp_path / "m", "--logs", tmp_path / "l")
    message = refused("train", "--data", xrays, *TINY, *folders, runner=here)
    assert "cannot write logs" in message and "--logs" in message


def test_full_disk_elsewhere_is_one_line(models, xrays, tmp_path):
    before = {path.name: path.read_bytes() for path in models.iterdir()}
    message = refused(
        "export", "onnx", "tiny", "--allow-dead-input", "--models", models, limit=10_000
    )
    assert "cannot write" in message
    assert {path.name: path.read_bytes() for path in models.iterdir()} == before
    message = refused("data", "generate", tmp_path / "drawn", limit=1_000)
    assert "cannot write" in message and "free some space" in message
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [TOOLKIT, "predict", "tiny", min(xrays.rglob("*.png")), "--models", models, "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(PYTHONUNBUFFERED=""),
        )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[0] == "error: cannot go on: [Errno 28] No space left on device"
    assert "Traceback" not in done.stderr


def test_folder_of_models_that_is_a_file_is_one_line(xrays, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    folders = ("--models", tmp_path / "file", "--logs", tmp_path / "l")
    assert "cannot write" in refused("train", "--data", xrays, *TINY, *folders, runner=here)
    message = refused("predict", "tiny", min(xrays.rglob("*.png")), "--models", tmp_path / "file")
    assert "cannot be read as a manifest" in message


def test_text_output_is_for_reading(exported, xrays):
    """Without --json: the class and its share, one line for each file."""
    xray = min(xrays.rglob("*.png"))
    done = run("predict", "tiny", xray, "--models", exported[0])
    assert re.fullmatch(
        rf"{re.escape(str(xray))}  \w+  \((\w+ [\d.]+%  ){{3}}\w+ [\d.]+%\)"
        r"(  unsure)?(  not like the X-rays it knows)?\n",
        done.stdout,
    )
    done = run("evaluate", "tiny", "--data", xrays, "--part", "all", "--models", exported[0])
    assert "60 X-rays" in done.stdout and "balanced accuracy" in done.stdout


def test_sixteen_bit_and_odd_sizes_are_predicted(exported, tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (300, 260)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    content, _ = ok("predict", "tiny", tmp_path / "deep.png", "--models", exported[0])
    assert "class" in content["results"][0]


# --- names of files that are no text


def test_a_file_whose_name_is_no_text_is_listed_and_trained_on(png_folder, tmp_path):
    folder = png_folder(
        *(f"{part}/{each}/{each}L" for part in ("train", "val") for each in (0, 2, 3, 4))
    )
    name = os.fsencode(folder / "train" / "0") + b"/\xff5L.png"
    os.rename(folder / "train" / "0" / "0L.png", name)
    (folder / "train" / "2" / os.fsdecode(b"\xfe.png")).write_bytes(b"no picture")
    strict = {"PYTHONIOENCODING": "utf-8:strict"}
    done = run("data", "inspect", folder, **strict)
    assert done.returncode == 0, done.stderr
    arguments = ("--models", tmp_path / "m", "--logs", tmp_path / "l", "--epochs", 1)
    content, _ = ok("train", "--data", folder, *arguments, "--layer-size", 1, **strict)
    assert content["epochs"] == 1


def test_a_benchmark_of_xrays_of_which_none_can_be_read_is_one_line(models, tmp_path):
    (tmp_path / "xrays" / "0").mkdir(parents=True)
    (tmp_path / "xrays" / "0" / "1L.png").write_bytes(b"no picture")
    arguments = ("--data", tmp_path / "xrays", "--logs", tmp_path, "--models", models)
    assert "can be read" in refused("benchmark", "tiny", *arguments, runner=here)


def test_a_card_of_a_manifest_without_its_figures_is_one_line(models):
    path = models / "tiny.json"
    content = json.loads(path.read_text())
    del content["training"]["metrics"]["val"]["accuracy"]
    path.write_text(json.dumps(content))
    assert "lacks figures" in refused("card", "tiny", "--models", models, runner=here)
