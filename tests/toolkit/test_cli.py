"""The command line: what it prints, where, and how it exits."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from command_line import begin, here, json_of, ok, refused, run_installed
from PIL import Image

from toolkit.errors import printable

TINY = ("--layer-size", 2, "--epochs", 1, "--batch-size", 64)


def folders(tmp_path):
    """Options for a command that writes."""
    return ("--models", tmp_path / "m", "--logs", tmp_path / "l")


def _interruptible(arguments, line):
    """Start `toolkit`, send Ctrl-C after the first line that begins so, and wait for its end."""
    process = begin(*arguments)
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
    content, _ = ok("data", "generate", folder, "--count", 60, runner=run_installed)
    assert content["count"] == 60
    return folder


@pytest.fixture(scope="session")
def trained(xrays, tmp_path_factory):
    """What training said: folder of models, of logs, the JSON and stderr."""
    folder = tmp_path_factory.mktemp("trained")
    content, err = ok(
        *("train", "--data", xrays, *folders(folder), "--name", "tiny"),
        *("--layer-size", 2, "--epochs", 2, "--batch-size", 8, "--lr", "0.01"),
    )
    return folder / "m", folder / "l", content, err


@pytest.fixture(scope="session")
def exported(small_files):
    """The folder of `small`, a model that was exported."""
    return small_files.folder


@pytest.fixture
def models(copied):
    """The same in a folder of its own, to be changed."""
    return copied.folder


@pytest.fixture
def xray(xrays):
    return min(xrays.rglob("*.png"))


@pytest.fixture
def hidden(tmp_path):
    """Return a function of packages: an environment where they cannot be imported."""

    def hide(*names):
        for name in names:
            (tmp_path / "hidden" / name).mkdir(parents=True)
            (tmp_path / "hidden" / name / "__init__.py").write_text(
                f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')\n"
            )
        return {"PYTHONPATH": str(tmp_path / "hidden")}

    return hide


# --- help and use


HELP = ("", "train", "evaluate", "export", "predict", "data", "data generate", "data inspect")


def test_help_is_had_without_importing_anything_heavy():
    script = (
        "import sys\nfrom toolkit import cli\n"
        f"for line in {HELP}:\n"
        "    sys.argv = ['toolkit', *line.split(), '--help']\n"
        "    try:\n        cli.main()\n"
        "    except SystemExit as ended:\n        print('exit', ended.code)\n"
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'bentoml', 'optuna', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    *helps, heavy = re.split(r"^exit 0$", done.stdout, flags=re.MULTILINE)
    assert heavy.strip() == "[]" and len(helps) == len(HELP), done.stdout + done.stderr
    for line, text in zip(HELP, helps, strict=True):
        assert ("--json" in text) == (line not in ("", "data")), line


def test_version_is_that_of_what_is_installed_also_as_a_module():
    command = [sys.executable, "-m", "toolkit", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.strip() == version("toolkit") == run_installed("--version").out.strip()


@pytest.mark.full
def test_help_takes_under_half_a_second():
    times = []
    for _ in range(7):
        start = time.perf_counter()
        assert run_installed("--help").code == 0
        times.append(time.perf_counter() - start)
    assert sorted(times)[3] < 0.5, times


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "nonsense"),
        ("data nonsense", "nonsense"),
        ("train --nonsense", "--nonsense"),
        ("export tensorflow", "tensorflow"),
        ("evaluate tiny", "--data"),
        ("predict tiny", "FILE"),
        ("train --preset best", "'best' is not one of 'study', 'default'"),
        ("train --labels two", "'two' is not one of study, five, merge01, folders"),
        ("train --split random", "'random' is not one of 'published', 'study', 'patient'"),
        ("train --device tpu", "'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        ("train --precision int4", "'int4' is not one of 'fp32', 'bf16'"),
        ("package --image tpu", "'tpu' is not one of 'cpu', 'gpu'"),
        ("package --backend make", "'make' is not one of 'podman', 'docker', 'buildah'"),
        ("train --epochs many", "--epochs"),
        ("train --seed -1", "seed"),
        ("data generate x --count 0", "count"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(line, said, tmp_path):
    assert said in refused(*line.split(), cwd=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "setting",
    [
        *("--layer-size 0", "--layer-size 100000000", "--epochs 0", "--batch-size -3"),
        *("--dropout 1", "--dropout nan", "--lr 0", "--lr nan", "--lr inf"),
        "--seed 99999999999999999999999",
    ],
)
def test_value_out_of_its_range_is_named(xrays, tmp_path, setting):
    message = refused("train", "--data", xrays, *folders(tmp_path), *setting.split())
    option = setting.split()[0]
    assert option.removeprefix("--").replace("-", "") in re.sub("[-_]", "", message)
    assert not list(tmp_path.iterdir())


def test_a_process_of_its_own_says_it_likewise(exported, xray):
    assert "nonsense" in refused("nonsense", runner=run_installed)
    content, _ = ok("predict", "small", xray, "--models", exported, runner=run_installed)
    assert content == ok("predict", "small", xray, "--models", exported)[0]


def test_what_a_terminal_would_obey_is_escaped_wherever_it_comes_from(exported, tmp_path):
    name = "\x1b[31m\udcff é.png"
    (tmp_path / name).write_bytes(b"no picture")
    done = here("predict", "small", tmp_path / name, "--models", exported)
    assert r"\x1b[31m\udcff é.png" in done.out and "\x1b" not in done.out
    message = refused("data", "inspect", tmp_path / "\x1b[2J\n")
    assert message.startswith("no data folder at ") and r"\x1b[2J" in message
    assert printable("a\tb\nc" + "d" * 99, 6) == "a b cd"


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
    done = here("data", "inspect", folder)
    assert done.code == 0
    assert "bad.png" in done.out and "more than one part: 7" in done.out


def test_inspect_says_how_patients_are_told_apart_and_what_is_left_out(png_folder, tmp_path):
    names = ("train/0/7_left", "valid/2/7_right", "train/2/8_left", "train/5/9_left", "train/3/10")
    folder = png_folder(*names)
    content, _ = ok("data", "inspect", folder)
    assert content["patients"] == 3 and content["crossing_patients"] == ["7"]
    assert "by name: 7_left and 7_right are of one" in content["told_apart"]
    assert content["warnings"] == [] and len(content["left_out"]) == 1
    text = here("data", "inspect", folder).out
    assert "4 X-rays of 3 patients, told apart by name: 7_left" in text
    assert "left out: train/5, not a part or grade: 1 file" in text
    content, _ = ok("data", "inspect", folder, "--patients", r"^(\d+_?\w*)")
    assert content["patients"] == 4 and "--patients REGEX" in content["warnings"][0]
    table = tmp_path / "groups.csv"
    table.write_text("file,patient\n7_left,a\n7_right,a\n8_left,a\n10,b\n")
    content, _ = ok("data", "inspect", folder, "--groups", table)
    assert content["patients"] == 2 and "the table" in content["told_apart"]


def test_inspect_lists_what_is_there_twice_and_each_unreadable_file_once(png_folder):
    folder = png_folder("train/0/1L", "train/2/2L", "val/3/3L")
    (folder / "train" / "4").mkdir()
    (folder / "train" / "4" / "4L.png").write_bytes((folder / "train/0/1L.png").read_bytes())
    (folder / "val" / "2").mkdir()
    (folder / "val" / "2" / "5L.png").write_bytes((folder / "train/2/2L.png").read_bytes())
    (folder / "val" / "2" / "6L.png").write_bytes(b"no image")
    content, _ = ok("data", "inspect", folder)
    assert content["conflicts"] == [[f"{folder}/train/0/1L.png", f"{folder}/train/4/4L.png"]]
    copied = [[f"{folder}/train/2/2L.png", f"{folder}/val/2/5L.png"]]
    assert content["copies_in_other_parts"] == copied
    text = here("data", "inspect", folder).out
    assert "1 X-ray under two grades" in text
    assert "1 X-ray with copies in another part" in text
    assert text.count("6L.png") == 1


def trained_on(folder, target, *more):
    return ("train", "--data", folder, *TINY, *folders(target), *more)


def every_class(part):
    return [
        f"{part}/{grade}/{grade}{n}{side}" for grade in (0, 2, 3, 4) for n in "12" for side in "LR"
    ]


def test_train_says_whose_xrays_are_together_and_what_the_model_will_lack(png_folder, tmp_path):
    folder = png_folder(*every_class("train"), "train/7/1L")
    _, said = ok(*trained_on(folder, tmp_path))
    assert "8 patients, told apart by name: 01L and 01R are of one" in said
    assert "warning: left out: train/7, not a part or grade: 1 file" in said
    assert "no part val: the model will have no calibration" in said and "in_scope" in said


def test_train_takes_the_patients_that_it_is_told_and_refuses_a_single_one(png_folder, tmp_path):
    folder = png_folder(*every_class("train"), *every_class("val"))
    _, said = ok(*trained_on(folder, tmp_path, "--patients", "^(..)"))
    assert "8 patients, told apart by the pattern" in said
    assert "8 patients with X-rays in more than one part" in said
    message = refused(*trained_on(folder, tmp_path, "--patients", "^.?.?()"))
    assert "finds no patient" in message
    table = tmp_path / "groups.csv"
    rows = [f"{Path(name).name},one" for name in every_class("train")]
    table.write_text("\n".join(["file,patient", *rows]))
    assert "of one patient" in refused(*trained_on(folder, tmp_path, "--groups", table))
    assert "give --data" in refused("train", *folders(tmp_path), "--groups", table)


def test_train_refuses_one_picture_under_two_grades_unless_it_is_allowed(png_folder, tmp_path):
    folder = png_folder(*every_class("train"), *every_class("val"))
    (folder / "train/4/99L.png").write_bytes((folder / "train/0/01L.png").read_bytes())
    message = refused(*trained_on(folder, tmp_path))
    assert "train/0/01L.png and train/4/99L.png" in message and "--allow-conflicts" in message
    _, said = ok(*trained_on(folder, tmp_path, "--allow-conflicts"))
    assert "train/0/01L.png and train/4/99L.png" in said


@pytest.mark.full
def test_a_model_is_judged_by_the_patients_that_it_was_trained_with(png_folder, tmp_path):
    names = [f"{g}/{g}-{p}-{k}" for g in (0, 2, 3, 4) for p in range(16) for k in "ab"]
    folder, table = png_folder(*names), tmp_path / "groups.csv"
    rows = [f"{Path(name).name},{name.split('-')[1]}" for name in names]
    table.write_text("\n".join(["file,patient", *rows]))
    for rule in (("--patients", r"-(\d+)-"), ("--groups", table)):
        ok(*trained_on(folder, tmp_path, *rule, "--name", "tiny"))
        judged = () if rule[0] == "--patients" else rule
        models = folders(tmp_path)[:2]
        _, said = ok("evaluate", "tiny", "--data", folder, "--part", "train", *models, *judged)
        assert "not the data" not in said


# --- train


def test_training_writes_model_manifest_and_curves(trained):
    models, logs, content, err = trained
    assert content["name"] == "tiny" and content["epochs"] == 2
    assert Path(content["checkpoint"]) == models / "tiny.pt"
    assert Path(content["manifest"]) == models / "tiny.json"
    assert (models / "tiny.pt").is_file() and (models / "tiny.json").is_file()
    assert not (models / "tiny.resume.pt").exists()
    lines = re.findall(r"^epoch (\d)/2  train .*%  val .*%  loss \d", err, re.MULTILINE)
    assert lines == ["1", "2"]
    assert set(content["metrics"]) == {"train", "val", "test"}
    assert content["skipped"] == [] and isinstance(content["warnings"], list)
    assert content["faults"] == [] and "fault of the study" not in err
    for events in Path(content["logs"]).rglob("events.out.tfevents.*"):
        assert events.is_relative_to(logs) and events.stat().st_size > 100


def test_a_training_by_the_studys_preset_ends_with_the_faults_that_it_repeats(xrays, tmp_path):
    content, err = ok("train", "--preset", "study", "--data", xrays, *TINY, *folders(tmp_path))
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
    content, err = ok("train", *TINY, *folders(tmp_path))
    assert "no --data given: training on 800 generated X-rays" in err
    assert content["name"] == "model_saved" and (tmp_path / "m" / "model_saved.pt").is_file()
    assert "final" in content["logs"]


@pytest.mark.full
def test_ctrl_c_saves_and_resume_finishes_and_former_files_are_kept(xrays, tmp_path):
    arguments = ["train", "--data", xrays, *folders(tmp_path), "--name", "broken", "--json"]
    arguments += ["--layer-size", 2, "--epochs", 8, "--batch-size", 16]

    def names():
        return sorted(path.name.removeprefix("broken.") for path in (tmp_path / "m").iterdir())

    code, out, err = _interruptible(arguments, "epoch 1/8")
    assert code == 130, err
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    stopped = re.fullmatch(r"error: (stopped after epoch (\d+) of 8: .*--resume goes on)", last)
    assert stopped, err
    assert json.loads(out) == {"error": stopped[1]}, "one JSON object, even then"
    assert names() == ["resume.pt"]

    done = here(*arguments, "--resume")
    assert done.code == 0, done.err
    assert f"resuming broken after epoch {stopped[2]} of 8" in done.err
    assert f"epoch {int(stopped[2]) + 1}/8" in done.err
    assert json_of(done)["epochs"] == 8
    own = ["json", "pt", "scope.pt"]
    assert names() == own

    # To the same weights as an unbroken run, which keeps the former files beside its own.
    done = here(*arguments)
    assert done.code == 0 and "the former broken is kept as broken.previous.*" in done.err
    assert names() == sorted([*own, *(f"previous.{each}" for each in own)])
    hashes = {
        json.loads((tmp_path / "m" / name).read_text())["training"]["checkpoint_sha256"]
        for name in ("broken.json", "broken.previous.json")
    }
    assert len(hashes) == 1


def test_ctrl_c_anywhere_else_is_a_line_too(exported, tmp_path):
    arguments = ["export", "onnx", "small", "--models", exported]
    arguments += ["--out", tmp_path / "out", "--json"]
    code, out, err = _interruptible(arguments, "exporting")
    assert code == 130 and "Traceback" not in err, err
    assert err.strip().splitlines()[-1] == "error: stopped"
    assert json.loads(out) == {"error": "stopped"}
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_what_is_odd_about_the_data_is_said_before_anything_is_trained(xrays, tmp_path):
    folder = shutil.copytree(xrays, tmp_path / "data")
    for index in range(12):
        (folder / "train" / "0" / f"bad{index:02}.png").write_bytes(b"no image")
    arguments = ("train", "--data", folder, *TINY, "--split", "study", *folders(tmp_path))
    done = here(*arguments, "--teachers", "none")
    assert done.code == 2 and "no model here" in done.err.splitlines()[-1]
    assert f"{folder / 'train' / '0' / 'bad00.png'}" in done.err
    assert "... and 2 more" in done.err
    assert "skipped 12 files that cannot be read" in done.err
    assert "warning: this is not the study's split: it has 6765 X-rays, here are 60" in done.err
    assert re.search(r"warning: \d+ patients with X-rays in more than one part", done.err)


def test_class_that_is_empty_in_training_is_an_error(png_folder, tmp_path):
    folder = png_folder("train/0/1L", "train/2/2L", "train/4/3L", "val/3/4L")
    message = refused("train", "--data", folder, *TINY, *folders(tmp_path))
    assert "no X-ray of class moderate in the part 'train'" in message


# --- evaluate


@pytest.mark.full
def test_export_ends_with_the_command_that_serves_what_it_wrote(trained, tmp_path):
    out = tmp_path / "a folder"
    export = ("export", "onnx", "tiny", "--allow-dead-input", "--models", trained[0])
    done = here(*export, "--out", out)
    assert done.code == 0, done.err
    wanted = f"next: TOOLKIT_MODELS='{out}' TOOLKIT_MODEL=tiny bentoml serve"
    assert done.out.splitlines()[-1].endswith(wanted)


def test_a_temperature_at_the_end_of_its_range_is_a_warning(xrays, tmp_path, monkeypatch):
    monkeypatch.setattr("toolkit.train.calibration.fit_temperature", lambda *_: 19.9999)
    content, err = ok("train", "--data", xrays, *TINY, *folders(tmp_path))
    (warning,) = [each for each in content["warnings"] if "temperature" in each]
    assert warning.startswith("the temperature 20 is at the end of its range, 0.05 to 20")
    assert f"warning: {warning}" in err


@pytest.mark.full
def test_a_benchmark_says_how_far_it_is(exported, tmp_path):
    line = ("benchmark", "small", "--models", exported, "--logs", tmp_path)
    content, err = ok(*line, "--rounds", 2, "--threads", 1, "--batch", 1)
    assert content["rows"]
    rounds = re.findall(r"^round (\d) of 2(?:, about \d+ s left)?$", err, re.MULTILINE)
    assert rounds == ["1", "2"]


def test_evaluation_has_every_figure_and_torch_and_onnx_agree(exported, xrays):
    arguments = ("--data", xrays, "--part", "all")
    content, _ = ok("evaluate", "small", *arguments, "--models", exported)
    names = "n accuracy balanced_accuracy quadratic_weighted_kappa recall precision"
    assert {*names.split(), "confusion_matrix", "intervals"} <= set(content)
    matrix = np.array(content["confusion_matrix"])
    assert matrix.shape == (4, 4) and matrix.sum() == content["n"] == 60
    assert matrix.sum(axis=1).tolist() == [15, 15, 15, 15], "rows are the true class"
    assert content["accuracy"] == pytest.approx(np.trace(matrix) / 60)
    assert content["recall"] == pytest.approx((np.diag(matrix) / 15).tolist())
    low, high = content["intervals"]["accuracy"]
    assert low <= content["accuracy"] <= high
    for file in ("small.pipeline.onnx", "small.pt"):
        assert ok("evaluate", exported / file, *arguments)[0] == content


def test_a_lower_precision_that_was_not_proven_is_refused(models, xrays):
    shutil.copy(models / "small.pipeline.onnx", models / "small.fp16.pipeline.onnx")
    message = refused("evaluate", models / "small.fp16.pipeline.onnx", "--data", xrays)
    assert "no exported fp16" in message


def test_parts_that_the_training_did_not_draw_are_never_taken_for_its_own(trained, png_folder):
    """The model was trained on a split by patient; the parts of other data are not its parts."""
    flat = png_folder(*(f"{grade}/{9000000 + place}L" for grade in (0, 2) for place in range(20)))
    line = refused("evaluate", "tiny", "--data", flat, "--models", trained[0])
    assert "not the data that tiny's parts were drawn from: use --part all" in line


def test_part_that_is_missing_is_named_and_missing_classes_are_null(exported, png_folder):
    folder = png_folder("val/0/1L", "val/0/2L", "val/3/3L")
    message = refused("evaluate", "small", "--data", folder, "--models", exported)
    assert "the data has no part 'test': it has val" in message
    content, _ = ok("evaluate", "small", "--data", folder, "--part", "val", "--models", exported)
    assert content["n"] == 3
    assert [each is None for each in content["recall"]] == [False, True, False, True]
    defined = [each for each in content["recall"] if each is not None]
    assert content["balanced_accuracy"] == pytest.approx(np.mean(defined))


def test_flat_folder_is_evaluated_as_a_whole(exported, png_folder):
    folder = png_folder("0/1L", "2/2L", "3/3L", "4/4L", "1/5L")
    content, _ = ok("evaluate", "small", "--data", folder, "--part", "all", "--models", exported)
    assert content["n"] == 4, "grade 1 is in no class of the study's labels"


# --- predict


def test_predict_answers_every_file_and_exits_2_if_one_failed(exported, xrays, tmp_path):
    good = sorted(xrays.rglob("*.png"))[:2]
    (tmp_path / "bad.png").write_bytes(b"no image")
    relative = os.path.relpath(good[1], tmp_path)
    files = [good[0], "bad.png", relative, "none.png"]
    done = here("predict", "small", *files, "--models", exported, "--json", cwd=tmp_path)
    assert done.code == 2, done.err
    results = json_of(done)["results"]
    assert [each["file"] for each in results] == [str(each) for each in files]
    assert "not a PNG, JPEG or DICOM" in results[1]["error"] and "class" not in results[1]
    assert "cannot be read" in results[3]["error"]
    names = "file class label probabilities expected_grade abstain in_scope"
    for each in (results[0], results[2]):
        assert set(each) == set(names.split())
        assert each["class"] == int(np.argmax(each["probabilities"]))
        assert each["label"] == ["none", "minimal", "moderate", "severe"][each["class"]]
        assert sum(each["probabilities"]) == pytest.approx(1)
    done = here("predict", "small", good[0], "bad.png", "--models", exported, cwd=tmp_path)
    assert done.code == 2
    assert results[0]["label"] in done.out and "bad.png  refused: " in done.out


def test_predict_needs_no_torch_and_takes_a_file(exported, xray, tmp_path, hidden):
    without = hidden("torch", "onnx", "onnxscript", "tensorboard", "optuna")
    named, err = ok("predict", "small", xray, "--models", exported, runner=run_installed, **without)
    assert err == ""
    by_path, err = ok("predict", exported / "small.pipeline.onnx", xray)
    assert by_path == named and err == ""
    alone = shutil.copy(exported / "small.pipeline.onnx", tmp_path / "alone.onnx")
    by_file, err = ok("predict", alone, xray)
    (known,) = named["results"]
    # When to abstain, and what is in scope, is in the manifest alone.
    del known["abstain"], known["in_scope"]
    assert by_file["results"] == [known]
    assert "no manifest beside it, so no proof was checked" in err


def test_predict_equals_torch(exported, xrays):
    from export.convert.pipeline import load_pipeline
    from toolkit.model import manifest
    from toolkit.model.files import ModelFiles
    from toolkit.xray.reading import read_xray

    torch = pytest.importorskip("torch")
    files = sorted(xrays.rglob("*.png"))[:3]
    content, _ = ok("predict", "small", *files, "--models", exported)
    model = ModelFiles(exported, "small")
    pipeline = load_pipeline(model, manifest.load(model.manifest))
    pixels = torch.from_numpy(np.stack([read_xray(path) for path in files]))
    with torch.no_grad():
        expected = pipeline(pixels)[1].numpy()
    found = [each["probabilities"] for each in content["results"]]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_predict_refuses_a_file_that_was_changed(models, xray):
    content = bytearray((models / "small.pipeline.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (models / "small.pipeline.onnx").write_bytes(content)
    for model in ("small", models / "small.pipeline.onnx"):
        message = refused("predict", model, xray, "--models", models)
        assert "is not the file that was proven" in message


def test_text_output_is_for_reading(exported, xrays, xray):
    """Without --json: the class and its share, one line for each file."""
    done = here("predict", "small", xray, "--models", exported)
    assert re.fullmatch(
        rf"{re.escape(str(xray))}  \w+  \((\w+ [\d.]+%  ){{3}}\w+ [\d.]+%\)"
        r"(  unsure)?(  not like the X-rays it knows)?\n",
        done.out,
    )
    done = here("evaluate", "small", "--data", xrays, "--part", "all", "--models", exported)
    assert "--part all takes every X-ray, those that the model was trained on too" in done.err
    assert "60 X-rays" in done.out and "balanced accuracy" in done.out


def test_sixteen_bit_and_odd_sizes_are_predicted(exported, tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (300, 260)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    content, _ = ok("predict", "small", tmp_path / "deep.png", "--models", exported)
    assert "class" in content["results"][0]


# --- met in the first hour


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("data inspect {tmp}/nowhere", "no data folder at {tmp}/nowhere"),
        ("data inspect {tmp}/empty", "no X-rays in"),
        (
            "evaluate small --data {tmp}/nowhere --models {models}",
            "no data folder at {tmp}/nowhere",
        ),
        ("train --data {tmp}/nowhere --models {tmp}", "no data folder at {tmp}/nowhere"),
        ("train --data {tmp}/nowhere --models {tmp} --resume", "nothing to resume"),
        ("train --data {xrays} --models {tmp}/file --logs {tmp} {tiny}", "cannot write"),
        ("train --data {xrays} --models {tmp} --name a/b", "'a/b' cannot name a model"),
        ("evaluate a/b --data {xrays}", "'a/b' cannot name a model"),
        ("export onnx a/b", "'a/b' cannot name a model"),
        ("predict a/b {xray}", "'a/b' cannot name a model"),
        ("evaluate none --data {xrays} --models {tmp}", "no model here: {tmp}/none.json"),
        ("export onnx none --models {tmp}", "no model here: {tmp}/none.json"),
        ("predict none {xray} --models {tmp}", "no model here: {tmp}/none.json"),
        ("predict small {xray} --models {tmp}/file", "cannot be read as a manifest"),
        ("evaluate {models}/small.onnx --data {xrays}", "takes no X-rays"),
        ("evaluate {models}/small.explainer.onnx --data {xrays}", "takes no X-rays"),
        ("evaluate {models}/small.golden.npz --data {xrays}", "takes no X-rays"),
        ("benchmark small --data {tmp}/bad --logs {tmp} --models {models}", "can be read"),
        (
            "train --data {xrays} --models {tmp} --logs {tmp}/file --epochs 1",
            "cannot write to {tmp}",
        ),
    ],
)
def test_what_is_not_there_or_in_the_way_is_one_line(line, said, exported, xrays, xray, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("a file where a folder belongs")
    (tmp_path / "bad" / "0").mkdir(parents=True)
    (tmp_path / "bad" / "0" / "1L.png").write_bytes(b"no picture")
    names = {"models": exported, "xrays": xrays, "xray": xray, "tmp": tmp_path}
    names["tiny"] = " ".join(map(str, TINY))
    assert said.format(**names) in refused(*shlex.split(line.format(**names)))


def test_corrupt_checkpoint_is_one_line(models, xrays):
    whole = (models / "small.pt").read_bytes()
    for content in (whole[: len(whole) // 2], b"no checkpoint"):
        (models / "small.pt").write_bytes(content)
        message = refused("evaluate", "small", "--data", xrays, "--models", models)
        assert f"{models / 'small.pt'} is not the file of" in message
    message = refused("export", "onnx", "small", "--models", models)
    assert "is not the file of" in message


def test_manifest_of_a_newer_schema_or_without_its_figures_is_one_line(trained, xray, tmp_path):
    xrays, models = xray.parent, shutil.copytree(trained[0], tmp_path / "models")
    path = models / "tiny.json"
    content = json.loads(path.read_text())
    del content["training"]["metrics"]["val"]["accuracy"]
    path.write_text(json.dumps(content))
    assert "lacks figures" in refused("card", "tiny", "--models", models)
    path.write_text(json.dumps(content | {"schema_version": 99}))
    lines = (f"evaluate tiny --data {xrays}", "export onnx tiny", f"predict tiny {xray}")
    for line in lines:
        message = refused(*line.split(), "--models", models)
        assert "has schema version 99, this toolkit reads" in message


def test_missing_extra_is_named_with_its_pip_line(xrays, tmp_path, monkeypatch):
    train = ("train", "--data", xrays, *TINY, *folders(tmp_path))
    evaluate, export = ("evaluate", "small", "--data", xrays), ("export", "onnx", "small")
    for name, lines in (("tensorboard", [train]), ("torch", [train, evaluate, export])):
        # So Python says that it is not there, though other tests have imported it.
        monkeypatch.setitem(sys.modules, name, None)
        for line in lines:
            message = f"{name} is not installed: pip install 'toolkit[train]'"
            assert refused(*line) == message


def test_both_onnxruntimes_and_neither_say_what_to_do(exported, xray, tmp_path, monkeypatch):
    for name in ("onnxruntime", "onnxruntime_gpu"):
        info = tmp_path / f"{name}-1.31.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.0\n")
    predict = ("predict", "small", xray, "--models", exported)
    message = refused(*predict, runner=run_installed, PYTHONPATH=str(tmp_path))
    assert "both installed" in message
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in message
    monkeypatch.setattr("toolkit.extras.ONNXRUNTIME_EXTRAS", {})
    for arguments in (predict, ("export", "onnx", "small", "--models", exported)):
        message = refused(*arguments)
        assert "onnxruntime is not installed: pip install 'toolkit[cpu]'" in message


@pytest.mark.full
def test_full_disk_is_one_line_and_leaves_no_half_file(models, full_disk, xrays, tmp_path):
    with full_disk(4_000):
        message = refused("train", "--data", xrays, *TINY, *folders(tmp_path))
    assert "cannot write" in message
    assert not list((tmp_path / "m").glob(".*")) and not list((tmp_path / "m").glob("*.pt"))
    before = {path.name: path.read_bytes() for path in models.iterdir()}
    with full_disk(10_000):
        export = ("export", "torchscript", "small", "--models", models)
        assert "cannot write" in refused(*export)
    assert {path.name: path.read_bytes() for path in models.iterdir()} == before
    with full_disk(1_000):
        message = refused("data", "generate", tmp_path / "drawn", "--count", 9)
    assert "cannot write" in message and "free some space" in message


@pytest.mark.full
def test_a_file_whose_name_is_no_text_is_listed_and_trained_on(png_folder, tmp_path):
    folder = png_folder(
        *(f"{part}/{each}/{each}L" for part in ("train", "val") for each in (0, 2, 3, 4))
    )
    name = os.fsencode(folder / "train" / "0") + b"/\xff5L.png"
    os.rename(folder / "train" / "0" / "0L.png", name)
    (folder / "train" / "2" / os.fsdecode(b"\xfe.png")).write_bytes(b"no picture")
    strict = {"PYTHONIOENCODING": "utf-8:strict"}
    assert r"\udcfe.png" in run_installed("data", "inspect", folder, **strict).out
    arguments = ("train", "--data", folder, *folders(tmp_path), "--epochs", 1, "--layer-size", 1)
    content, err = ok(*arguments, runner=run_installed, **strict)
    assert content["epochs"] == 1 and r"\udcfe.png" in err
