"""`toolkit predict --out`: no row lost, none twice, whatever happens to the processes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
from command_line import refused, run_installed
from PIL import Image

from toolkit.batch import paths as listing_paths
from toolkit.batch import rows
from toolkit.batch.paths import PathList, scan, split
from toolkit.batch.run import Plan
from toolkit.batch.workspace import Workspace
from toolkit.errors import UsageError
from toolkit.xray.synthetic import generate

ROOT = Path(__file__).resolve().parents[3]
MODELS = ROOT / "saved_models"
# What a process is killed by, or waits at, is the content of a file.
SITE = """
import os, time
import toolkit.batch.worker, toolkit.runtime.session
from toolkit.errors import ProviderError
from toolkit.xray.reading import decode

FAULTS = {"memory": MemoryError(), "disk": OSError(5, "Input/output error"),
          "device": ProviderError("ONNX Runtime failed")}
faults = [FAULTS[each] for each in os.environ.get("FAULTS", "").split()]
toolkit.batch.worker.PATIENCE_S = (0.0, 0.0, 0.0)

def judged(content, *shape):
    if content == b"poison":
        os.kill(os.getpid(), 9)
    while content == b"hold" and os.path.exists(os.environ["HOLD"]):
        time.sleep(0.01)
    if content == b"hold" and faults:
        raise faults.pop()
    return decode(content, *shape)

toolkit.runtime.session.decode = judged
if "OWNED" in os.environ:
    import toolkit.batch.local
    toolkit.batch.local.OWNED = ("cpu",)
if "FAILS_ONCE" in os.environ:
    from toolkit.runtime.engine import Plain

    def failing(self, size, names, run=Plain.run):
        if not os.path.exists(os.environ["FAILS_ONCE"]):
            open(os.environ["FAILS_ONCE"], "w").close()
            raise ProviderError("the card was lost")
        return run(self, size, names)

    Plain.run = failing
if "DIE" in os.environ:
    from toolkit.batch.workspace import Workspace
    Workspace.remove = lambda self: os.kill(os.getpid(), 9)
"""
CHANGED = """
import sys
if any("spawn_main" in each for each in sys.orig_argv):
    with open(os.environ["CHANGED"], "ab") as file:
        file.write(b"more")
"""
TOOLKIT = """
import resource, sys
import toolkit.batch.paths, toolkit.batch.run, toolkit.batch.rows
from toolkit import cli

# Everything that bounds memory, made small.
toolkit.batch.paths.SHARD = toolkit.batch.run.SHARD = int(sys.argv.pop(1))
toolkit.batch.rows._PARTS_IN_A_GROUP = 4
try:
    cli.main()
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)
"""


@pytest.fixture(scope="session")
def xrays(tmp_path_factory):
    """64 X-rays in two folders, one file that holds its worker, and one that is no X-ray."""
    folder = tmp_path_factory.mktemp("batch") / "xrays"
    for index, each in enumerate(generate(64, seed=7)):
        path = folder / f"{index % 2}" / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each.pixels).save(path)
    (folder / "0" / "033-hold").write_bytes(b"hold")
    (folder / "1" / "note.txt").write_text("no X-ray")
    return folder


@pytest.fixture
def start(tmp_path):
    """Return a function that starts `toolkit predict model_saved` in a group of its own."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    begun = []

    def start(*arguments, model="model_saved", shard=8, **environment):
        command = [sys.executable, "-c", TOOLKIT, str(shard), "predict", model, "--json"]
        paths = f"{tmp_path / 'site'}:{ROOT}"
        process = subprocess.Popen(
            [*command, "--models", str(MODELS), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": paths, "HOLD": str(tmp_path / "hold")} | environment,
            # A shell's background jobs, and so their children, ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        begun.append(process)
        return process

    yield start
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def run(start):
    """Return a function that runs it to its end: its JSON, its exit code, what it said."""

    def run(*arguments, **options):
        process = start(*arguments, **options)
        out, err = process.communicate(timeout=120)
        assert out.count("\n") == 1, out + err
        return json.loads(out), process.returncode, err

    return run


@pytest.fixture(scope="session")
def unbroken(xrays, tmp_path_factory):
    """The table of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("unbroken") / "results.parquet"
    subprocess.run(
        [
            *(sys.executable, "-c", TOOLKIT, "8", "predict", "model_saved", xrays, "--out", out),
            *("--models", MODELS, "--workers", "2"),
        ],
        check=True,
        capture_output=True,
        cwd=ROOT,
    )
    return table(out)


def table(path):
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path)


def rows_of(path):
    return {row["path"]: row for row in table(path).to_pylist()}


def held(tmp_path, start, *arguments, part="000000", **options):
    """A run that has written a part, and cannot end: one worker waits at a file."""
    (tmp_path / "hold").touch()
    process = start(*arguments, "--workers", 2, **options)
    parts = tmp_path / "results.parquet.parts"
    while not any(parts.glob(f"{part}.parquet")):
        assert process.poll() is None, process.communicate()
        # What looks without a pause takes the processor from what it looks for.
        time.sleep(0.01)
    return process, parts


@pytest.fixture
def refusal(monkeypatch, tmp_path):
    """Return a function: why a run is refused, with shards of 8 or so many; in this process."""

    def refusal(*words, model="model_saved", shard=8):
        for module in ("paths", "run"):
            monkeypatch.setattr(f"toolkit.batch.{module}.SHARD", shard)
        return refused("predict", model, *words, "--models", MODELS, cwd=tmp_path)

    return refusal


def kill(process):
    """Kill a run with all its workers."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


# --- rows


def test_a_row_says_what_predict_says_of_the_file(xrays, run, tmp_path):
    content, code, _ = run(f"{xrays}/0/*.png", "--out", "results.parquet")
    assert code == 0 and content["files"] == 32 and content["errors"] == {}
    path = xrays / "0" / "002.png"
    (said,) = run(path)[0]["results"]
    row = rows_of(tmp_path / "results.parquet")["002.png"]
    probabilities = [
        row[f"probability_{name}"] for name in ("none", "minimal", "moderate", "severe")
    ]
    assert probabilities == pytest.approx(said["probabilities"], abs=1e-6)
    assert row["expected_grade"] == pytest.approx(said["expected_grade"], abs=1e-6)
    for name in ("class", "label", "abstain", "in_scope"):
        assert row[name] == said[name]
    assert row["sha256"] == sha256(path.read_bytes()).hexdigest()
    assert row["error"] is row["detail"] is None
    assert "decision" not in row, "the model has no operating point"
    metadata = table(tmp_path / "results.parquet").schema.metadata
    assert metadata[b"model_sha256"].decode() == content["model_sha256"]
    assert {b"model", b"toolkit", b"provider"} <= set(metadata)
    assert {path.name for path in tmp_path.iterdir()} == {"results.parquet", "site"}


def test_a_file_that_cannot_be_read_is_a_row_and_the_run_goes_on(xrays, run, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    good = (xrays / "0" / "000.png").read_bytes()
    (folder / "a.png").write_bytes(good)
    (folder / "b.png").write_bytes(good[:-40])
    (folder / "empty").touch()
    (folder / "gone").symlink_to("nowhere")
    (folder / os.fsdecode(b"\xff.png")).write_bytes(good)
    with (folder / "huge.png").open("wb") as file:
        file.truncate(20_000_001)
    content, code, _ = run(folder, "--out", "results.parquet")
    assert code == 0 and content["files"] == 6
    rows = rows_of(tmp_path / "results.parquet")
    errors = {path: row["error"] for path, row in rows.items()}
    assert errors == {
        "a.png": None,
        "b.png": "truncated",
        "empty": "not_an_image",
        "gone": "unreadable",
        "huge.png": "too_large",
        "\\xff.png": None,
    }
    assert content["errors"] == {code: 1 for code in errors.values() if code}
    assert "No such file" in rows["gone"]["detail"]
    assert rows["b.png"]["class"] is rows["b.png"]["label"] is rows["b.png"]["in_scope"] is None
    assert rows["b.png"]["sha256"] and rows["huge.png"]["sha256"] is None


# --- broken and gone on with


def test_a_run_killed_whole_goes_on_to_the_same_rows(xrays, start, run, unbroken, tmp_path):
    arguments = (xrays, "--out", "results.parquet")
    process, parts = held(tmp_path, start, *arguments)
    kill(process)
    done = len(list(parts.glob("[0-9]*.parquet")))
    (parts / ".000009.0badcafe.parquet").write_bytes(b"half a part")
    (tmp_path / "hold").unlink()
    content, code, _ = run(*arguments)
    assert code == 0 and content["resumed"] == 8 * done > 0
    assert table(tmp_path / "results.parquet").equals(unbroken, check_metadata=True)
    assert not parts.exists()


@pytest.mark.full
def test_the_files_are_those_that_were_there_at_first_whatever_has_taken_their_places(
    xrays, start, run, unbroken, tmp_path
):
    folder = tmp_path / "copy"
    shutil.copytree(xrays, folder)
    process, parts = held(tmp_path, start, folder, "--out", "results.parquet")
    kill(process)
    assert not (parts / "000008.parquet").exists()
    (tmp_path / "hold").unlink()
    for name in ("059", "061", "063"):
        (folder / "1" / f"{name}.png").unlink()
    # None of them holds its reader.
    os.mkfifo(folder / "1" / "061.png")
    (folder / "1" / "063.png").mkdir()
    shutil.copy(folder / "0" / "000.png", folder / "0" / "appeared.png")
    content, code, _ = run(folder, "--out", "results.parquet")
    assert code == 0 and content["errors"] == {"not_an_image": 2, "unreadable": 3}
    was = {row["path"]: row for row in unbroken.to_pylist()}
    now = rows_of(tmp_path / "results.parquet")
    assert was.keys() == now.keys()
    changed = {path: now[path]["detail"] for path in was if was[path] != now[path]}
    assert changed.keys() == {"1/059.png", "1/061.png", "1/063.png"}
    assert "No such file" in changed["1/059.png"]
    assert "no regular file" in changed["1/061.png"] and "directory" in changed["1/063.png"]


@pytest.mark.full
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_run_killed_when_its_file_is_there_only_tidies_up(xrays, start, run, tmp_path, suffix):
    name = f"results.{suffix}"
    arguments = (f"{xrays}/1/*.png", "--out", name)
    killed = start(*arguments, DIE="yes")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    kept = (tmp_path / name).read_bytes()
    content, code, _ = run(*arguments)
    assert code == 0 and content["resumed"] == content["files"] == 32
    assert sum(content["classes"].values()) == 32
    assert {path.name for path in tmp_path.iterdir()} == {name, "site"}
    content, code, _ = run(*arguments)
    assert code == 2 and "there already" in content["error"]
    (tmp_path / f"{name}.parts").mkdir()
    assert run(*arguments)[1] == 2
    assert (tmp_path / name).read_bytes() == kept


@pytest.mark.full
def test_another_file_that_lies_there_is_never_taken_for_what_was_written(
    xrays, start, run, tmp_path
):
    arguments = (f"{xrays}/1/*.png", "--out", "results.csv")
    start(*arguments, DIE="yes").communicate()
    other = (tmp_path / "results.csv").read_bytes().replace(b"severe", b"normal")
    (tmp_path / "results.csv").write_bytes(other)
    content, code, _ = run(*arguments)
    assert code == 2 and "there already" in content["error"]
    assert (tmp_path / "results.csv").read_bytes() == other


# --- formats


def test_rows_are_the_same_in_every_format(xrays, run, unbroken, tmp_path):
    below = [row for row in unbroken.to_pylist() if row["path"].startswith("1/")]
    expected = [row | {"path": row["path"].removeprefix("1/")} for row in below]
    assert {row["error"] for row in expected} == {None, "not_an_image"}
    content, code, _ = run(f"{xrays}/1/*", "--out", "rows.CSV")
    assert code == 0 and content["errors"] == {"not_an_image": 1}
    assert content["files"] == sum(content["classes"].values()) + 1 == len(expected)
    with (tmp_path / "rows.CSV").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        assert list(row) == list(wanted)
        for name, value in wanted.items():
            if isinstance(value, float):
                assert float(row[name]) == pytest.approx(value, rel=1e-7, abs=1e-7)
            else:
                text = "" if value is None else str(value)
                assert row[name] == (text.lower() if isinstance(value, bool) else text)


FORMULAS = [
    "=1+1.png",
    " =",
    "\u00a0@",
    "\uff1d",
    "(\u2212",
    "\u200b+",
    "-",
    "'=1",
    "\ta",
    "\ufeffa",
]
TEXTS = ["a=1.png", "1-2", "(a)", "\u00e9-", "#", ""]


def test_csv_has_no_text_that_a_spreadsheet_takes_for_a_formula(tmp_path):
    schema, texts = rows.schema(["a"], {}), FORMULAS + TEXTS
    part = tmp_path / "0.parquet"
    failures = [rows.failed(text, None, "unreadable", text) for text in texts]
    rows.write_part(failures, schema, part)
    for suffix in (".csv", ".jsonl", ".parquet"):
        rows.join([part], schema, tmp_path / f"rows{suffix}", lambda _: None)
    with (tmp_path / "rows.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    expected = [f"'{text}" for text in FORMULAS] + TEXTS
    assert [row["path"] for row in written] == [row["detail"] for row in written] == expected
    assert {row["label"] for row in written} == {""}
    lines = (tmp_path / "rows.jsonl").read_text().split("\n")[:-1]
    assert [json.loads(line)["path"] for line in lines] == texts
    assert [row["path"] for row in table(tmp_path / "rows.parquet").to_pylist()] == texts


def test_rows_on_stdout_are_json_lines_and_leave_no_file(xrays, unbroken, tmp_path):
    known = {row["path"]: row for row in unbroken.to_pylist()}
    folder = {"cwd": tmp_path, "TMPDIR": str(tmp_path)}
    words = ("predict", "model_saved", f"{xrays}/0/00*.png", "--out", "-", "--models", MODELS)
    said = run_installed(*words, "--workers", 1, **folder)
    assert said.code == 0, said.err
    found = [json.loads(line) for line in said.out.splitlines()]
    names = [f"00{n}.png" for n in (0, 2, 4, 6, 8)]
    assert_same_rows(found, [known[f"0/{name}"] | {"path": name} for name in names])
    assert "-: 5 files" in said.err and not list(tmp_path.iterdir())


def test_ctrl_c_ends_in_one_line_and_leaves_what_is_needed_to_go_on(xrays, start, tmp_path):
    process, parts = held(tmp_path, start, xrays, "--out", "results.parquet")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    line = [each for each in err.splitlines() if not each.startswith("peak")][-1]
    assert err.count("error: ") == 1 and "Traceback" not in err
    assert line.startswith("error: stopped with ") and "the same command goes on" in line
    assert json.loads(out) == {"error": line.removeprefix("error: ")}
    done = len(list(parts.glob("[0-9]*.parquet")))
    assert f"stopped with {8 * done} X-rays saved" in line
    assert (parts / "plan.json").exists() and not list(parts.glob(".*"))


# --- workers


def test_killed_workers_are_replaced_and_no_row_is_lost_or_twice(
    xrays, start, unbroken, workers_of, tmp_path
):
    process, _ = held(tmp_path, start, xrays, "--out", "results.parquet")
    for worker in workers_of(process):
        os.kill(worker, signal.SIGKILL)
    (tmp_path / "hold").unlink()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err.count("a worker ended by signal 9; another takes its place") == 2
    assert table(tmp_path / "results.parquet").equals(unbroken, check_metadata=True)


def test_a_file_that_kills_its_worker_twice_is_a_row(xrays, run, unbroken, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(xrays, folder)
    (folder / "0" / "050.png").write_bytes(b"poison")
    content, code, err = run(folder, "--out", "results.parquet", "--workers", 2)
    assert code == 0 and content["errors"] == {"not_an_image": 2, "worker_died": 1}, err
    was = {row["path"]: row for row in unbroken.to_pylist()}
    now = rows_of(tmp_path / "results.parquet")
    assert {path for path in was if was[path] != now[path]} == {"0/050.png"}
    assert list(was) == list(now)


# --- one process that runs the model for all, as on a card; here on the CPU


def assert_same_rows(found, expected):
    """Hold rows against those of workers that each ran the model; batches may round otherwise."""
    assert [each["path"] for each in found] == [each["path"] for each in expected]
    for row, known in zip(found, expected, strict=True):
        assert row.keys() == known.keys()
        for name, value in known.items():
            exact = not isinstance(value, float)
            assert row[name] == (value if exact else pytest.approx(value, abs=1e-5)), name


def test_processes_that_read_hand_over_to_one_that_runs_the_model(xrays, run, unbroken, tmp_path):
    out = tmp_path / "results.parquet"
    content, code, err = run(xrays, "--out", out, "--workers", 2, OWNED="1")
    assert code == 0 and content["files"] == 66, err
    assert_same_rows(table(out).to_pylist(), unbroken.to_pylist())


def test_card_that_fails_its_owner_once_is_in_no_row(xrays, run, tmp_path):
    arguments = (f"{xrays}/0/00*.png", "--out", "results.parquet", "--workers", 1)
    content, code, err = run(*arguments, OWNED="1", FAILS_ONCE=str(tmp_path / "failed"))
    assert code == 0 and content["files"] == 5 and not content["errors"], err
    assert err.count("warning: the card was lost") == 1


@pytest.mark.full
@pytest.mark.parametrize(
    ("dying", "deaths"),
    # The one that runs the model is the first to begin.
    [(lambda workers: workers, 3), (lambda workers: [min(workers)], 1)],
    ids=["all", "the owner alone"],
)
def test_whoever_dies_of_readers_and_owner_no_row_is_lost_or_twice_nor_another_ended(
    xrays, start, unbroken, workers_of, tmp_path, dying, deaths
):
    # Its readers go on to the next files while the first are in hand.
    process, _ = held(tmp_path, start, xrays, "--out", "results.parquet", part="[0-9]*", OWNED="1")
    for worker in dying(workers_of(process)):
        os.kill(worker, signal.SIGKILL)
    (tmp_path / "hold").unlink()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err.count("a worker ended by signal 9; another takes its place") == deaths
    found = table(tmp_path / "results.parquet").to_pylist()
    assert_same_rows(found, unbroken.to_pylist())


@pytest.mark.full
def test_file_that_kills_its_reader_twice_is_the_only_one_that_is_blamed(
    xrays, run, unbroken, tmp_path
):
    folder = tmp_path / "copy"
    shutil.copytree(xrays, folder)
    (folder / "0" / "050.png").write_bytes(b"poison")
    content, code, err = run(folder, "--out", "results.parquet", "--workers", 2, OWNED="1")
    assert code == 0 and content["errors"] == {"not_an_image": 2, "worker_died": 1}, err
    found = [row for row in rows_of(tmp_path / "results.parquet").values() if not row["error"]]
    known = {row["path"]: row for row in unbroken.to_pylist()}
    assert_same_rows(found, [known[row["path"]] for row in found])
    assert len(found) == 63


@pytest.mark.full
def test_model_that_the_owner_cannot_open_ends_the_run_in_one_line(xrays, start, tmp_path):
    models = shutil.copytree(MODELS, tmp_path / "models")
    site = tmp_path / "site" / "sitecustomize.py"
    # It is changed once the command has looked at it.
    site.write_text(site.read_text() + CHANGED)
    arguments = (xrays, "--out", "results.parquet", "--models", models, "--workers", 1)
    process = start(*arguments, OWNED="1", CHANGED=str(models / "model_saved.pipeline.onnx"))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "Traceback" not in err
    assert "is not the file that was proven" in out + err


def test_workers_that_cannot_start_end_the_run(xrays, run, tmp_path):
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os, sys\nif any('spawn_main' in each for each in sys.orig_argv): os._exit(3)\n"
    )
    content, code, err = run(xrays, "--out", "results.parquet", "--workers", 2)
    assert code == 2 and "workers die as soon as they start" in content["error"]
    assert "Traceback" not in err


# --- what is the machine's fault


@pytest.mark.full
def test_what_the_machine_lacks_for_a_while_is_in_no_row(xrays, run, unbroken, tmp_path):
    content, code, err = run(xrays, "--out", "results.parquet", FAULTS="memory disk device")
    assert code == 0 and content["errors"] == {"not_an_image": 2}, err
    assert table(tmp_path / "results.parquet").equals(unbroken, check_metadata=True)


def test_what_the_machine_lacks_ends_the_run_in_one_line_and_it_goes_on_to_the_same_rows(
    xrays, run, unbroken, tmp_path
):
    arguments = (xrays, "--out", "results.parquet", "--workers", 1)
    content, code, err = run(*arguments, FAULTS=" ".join(["disk"] * 9))
    assert code == 2
    assert "cannot go on at 0/033-hold: Input/output error; that is the" in content["error"]
    assert err.count("error: ") == 1 and "Traceback" not in err and "worker ended" not in err
    assert not (tmp_path / "results.parquet").exists()
    assert run(*arguments)[0]["resumed"] >= 8
    assert table(tmp_path / "results.parquet").equals(unbroken, check_metadata=True)


# --- what is damaged


def joined_rows(part):
    import pyarrow
    import pyarrow.parquet

    rows, twice = pyarrow.parquet.read_table(part), part.with_name("twice")
    pyarrow.parquet.write_table(pyarrow.concat_tables([rows, rows]), twice)
    content = twice.read_bytes()
    twice.unlink()
    return content


def flipped(content):
    """A file with one bit flipped in its first half, where a part has its rows."""
    place = len(content) // 3
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


UNFIT = {
    "empty": lambda part: part.read_bytes()[:0],
    "cut off": lambda part: part.read_bytes()[:-100],
    "no Parquet": lambda part: b"x" * part.stat().st_size,
    "a flipped bit": lambda part: flipped(part.read_bytes()),
    "another shard's": lambda part: part.with_name("000007.parquet").read_bytes(),
    "rows too many": joined_rows,
}


@pytest.fixture
def stopped(xrays, run, tmp_path):
    """The folder of parts of a run over all X-rays that ended before its end: 8 are there."""
    arguments = (xrays, "--out", "results.parquet", "--workers", 1)
    assert run(*arguments, shard=2, FAULTS=" ".join(["memory"] * 9))[1] == 2
    parts = tmp_path / "results.parquet.parts"
    assert len(list(parts.glob("0*.parquet"))) == 8
    return parts


def test_a_damaged_plan_or_listing_is_refused_and_parts_that_do_not_fit_are_done_again(
    stopped, xrays, run, refusal, unbroken, tmp_path
):
    for name in ("listing.parquet", "plan.json"):
        path, what = stopped / name, Path(name).stem
        whole = path.read_bytes()
        path.write_bytes(flipped(whole))
        error = refusal(xrays, "--out", "results.parquet", shard=2)
        assert f"the {what} in {stopped} is missing or damaged" in error
        assert "remove that folder" in error
        path.write_bytes(whole)
    assert len(list(stopped.glob("0*.parquet"))) == 8
    for number, damage in enumerate(UNFIT.values()):
        part = stopped / f"{number:06d}.parquet"
        part.write_bytes(damage(part))
    (stopped / "000006.parquet").unlink()
    os.mkfifo(stopped / "000006.parquet")
    content, code, err = run(xrays, "--out", "results.parquet", "--workers", 1, shard=2)
    assert code == 0 and content["resumed"] == 2, err
    assert table(tmp_path / "results.parquet").equals(unbroken, check_metadata=True)


STEP = 17
"""From one byte to the next of which a bit is flipped, each time the next bit."""


def test_one_bit_of_a_part_is_found_or_changes_no_row(tmp_path):
    part, schema = tmp_path / "part.parquet", rows.schema(["a", "b"], {"model": "m"})
    found = [
        (f"{number}.png", sha256(bytes([number])).hexdigest(), 1, "b", 0.1, 0.9, 2.5, False, True)
        for number in range(20)
    ]
    rows.write_part([(*row, None, None) for row in found], schema, part)
    content, right = part.read_bytes(), table(part)
    unseen = 0
    for place in range(0, len(content), STEP):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        part.write_bytes(changed)
        if rows.is_whole(part, schema, 20):
            assert table(part).equals(right), place
            unseen += 1
    assert unseen < len(content) / STEP / 2


def test_parts_of_another_run_are_not_joined_though_it_was_the_same(tmp_path):
    names = ("model", "model_sha256", "toolkit", "provider", "folder", "pattern")
    setup = dict.fromkeys(names, "a") | {"classes": ["a"], "grades": [], "operating_point": None}
    workspace = Workspace(tmp_path / "results.parquet")
    plan = Plan(None, "*", setup, workspace)
    workspace.paths.freeze([b"a"], lambda _: None)
    for _ in range(2):
        workspace.begin(setup, 1)
        plan.drop_unfit(1)
        assert workspace.pending(1) == [0]
        plan.write(0, [rows.failed("a", None, "unreadable", "gone")])
        plan.drop_unfit(1)
        assert workspace.pending(1) == []


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "a list": lambda path: path.write_text("[]"),
    "no list of pairs": lambda path: path.write_text("[1]"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "no text": lambda path: path.write_bytes(bytes(range(256))),
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("name", ["plan.json", "listing.parquet"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_plan_or_listing_is_refused(tmp_path, name, damage):
    workspace = Workspace(tmp_path / "results.parquet")
    workspace.paths.freeze([b"a", b"b"], lambda _: None)
    workspace.begin({"a": 1}, 2)
    assert workspace.resume({"a": 1}) == 2
    (workspace.folder / name).unlink()
    DAMAGES[damage](workspace.folder / name)
    with pytest.raises(UsageError, match="is missing or damaged: remove that folder"):
        workspace.resume({"a": 1})


def test_one_bit_of_any_byte_of_a_plan_is_found(tmp_path):
    workspace = Workspace(tmp_path / "results.parquet")
    workspace.paths.freeze([b"a", b"b"], lambda _: None)
    workspace.begin({"a": 1}, 2)
    plan = workspace.folder / "plan.json"
    content, whole = plan.read_bytes(), json.loads(plan.read_bytes())
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        plan.write_bytes(changed)
        try:
            assert workspace.resume({"a": 1}) == 2
        except UsageError:
            continue
        # A blank that became another.
        assert json.loads(changed) == whole


# --- refusals


def test_a_run_goes_on_with_nothing_but_the_same(xrays, start, refusal, tmp_path):
    import onnx

    digest = sha256((MODELS / "model_saved.pipeline.onnx").read_bytes()).hexdigest()
    model = onnx.load(MODELS / "model_saved.pipeline.onnx")
    model.doc_string = "another"
    onnx.save(model, tmp_path / "other.onnx")
    process, parts = held(tmp_path, start, xrays, "--out", "results.parquet")
    assert "another run is at work" in refusal(xrays, "--out", "results.parquet")
    kill(process)
    before = {path.name: path.read_bytes() for path in parts.iterdir()}
    for words, options, what in (
        (xrays, {"model": tmp_path / "other.onnx"}, f"model_sha256 was {digest}"),
        (xrays / "0", {}, "folder was"),
        (f"{xrays}/*/*.png", {}, "pattern was **/*, now */*.png"),
        (xrays, {"shard": 16}, "shard was 8, now 16"),
    ):
        assert what in refusal(words, "--out", "results.parquet", **options)
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nowhere --out r.parquet", "no folder at nowhere"),
        ("site/*.png --out r.parquet", "no file in"),
        ("site site --out r.parquet", "quote the pattern"),
        ("site --out site/file/r.parquet", "there is no folder site/file"),
        ("site --out typo/r.parquet", "there is no folder typo"),
        ("site --workers 2", "give --out too"),
        ("site --engine ray", "give --out too"),
        ("site --workers 0 --out r.parquet", "--workers"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(refusal, tmp_path, words, message):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "file").touch()
    assert message in refusal(*words.split())
    assert {path.name for path in tmp_path.rglob("*")} == {"site", "file"}


# --- listing


@pytest.fixture
def tree(tmp_path):
    """Folders and names in which every order but that of bytes would show."""
    names = ("a/x.png", "a.png", "a-b/c/d.png", "a-b.png", "B/é.png", "B/new\nline.png")
    for name in (*names, ".hidden/x.png", "B/.x.png", "B/x.txt"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "tree" / "a" / "up").symlink_to("..")
    (tmp_path / "tree" / "link").symlink_to("a-b")
    return tmp_path / "tree"


def test_files_come_in_the_order_of_their_paths(tree):
    found = list(scan(tree, "**/*"))
    assert found == sorted(found)
    assert set(map(os.fsdecode, found)) == {
        *("a/x.png", "a.png", "a-b/c/d.png", "a-b.png", "B/é.png", "B/new\nline.png", "B/x.txt"),
        "link/c/d.png",
    }


@pytest.mark.parametrize(
    "pattern",
    ["*.png", "**/*.png", "*/*", "a*/**/*.png", "**", "B/[nx]*", "**/c/**/d.*", "?-b/**", "no/*"],
)
def test_a_pattern_finds_what_glob_finds(tree, pattern):
    import glob

    (tree / "a" / "up").unlink()
    found = {os.fsdecode(path) for path in scan(tree, pattern)}
    known = glob.glob(pattern, root_dir=tree, recursive=True)
    assert found == {path for path in known if (tree / path).is_file()}


def test_a_folder_that_cannot_be_listed_is_named(tree, monkeypatch):
    listed = os.scandir

    def refusing(path):
        if path.endswith(b"/B/"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = list(scan(tree, "**/*.png", ["a"]))
    assert found == [b"B/", b"a-b.png", b"a-b/c/d.png", b"a.png", b"link/c/d.png"]


def test_what_would_hold_its_reader_is_not_listed_by_whatever_link(tree):
    usual = list(scan(tree, "**/*"))
    os.mkfifo(tree / "pipe.png")
    (tree / "link.png").symlink_to("pipe.png")
    (tree / "twice.png").symlink_to("link.png")
    (tree / "device.png").symlink_to("/dev/tty")
    (tree / "gone.png").symlink_to("nowhere")
    (tree / "loop.png").symlink_to("loop.png")
    assert set(scan(tree, "**/*")) == {*usual, b"gone.png", b"loop.png"}


def test_what_is_frozen_comes_back_shard_by_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(listing_paths, "SHARD", 4)
    monkeypatch.setattr(listing_paths, "_SHARDS_IN_A_GROUP", 2)
    paths = [os.fsencode(f"{index:03d}/") + bytes([255, 10, index]) for index in range(1, 10)]
    frozen = PathList(tmp_path / "listing.parquet")
    assert frozen.freeze(paths, lambda _: None) == 9
    assert dict(frozen.shards(range(3))) == {0: paths[:4], 1: paths[4:8], 2: paths[8:]}
    assert dict(frozen.shards([2])) == {2: paths[8:]}


def test_folder_and_pattern_are_told_apart(tree):
    assert split(f"{tree}") == (tree, "**/*")
    assert split(f"{tree}/**/*.png") == (tree, "**/*.png")
    assert split(f"{tree}/a/*/x?.png") == (tree / "a", "*/x?.png")
    assert split(f"{tree}/a.png") == (tree, "a.png")
    odd = tree / "x [2024]" / "[a]*"
    odd.mkdir(parents=True)
    assert split(f"{odd}/*.png") == (odd, "*.png")
    assert split(f"{tree}/x [2024]/[ab]/*.png") == (tree / "x [2024]", "[ab]/*.png")


@pytest.mark.full
def test_memory_does_not_grow_with_the_number_of_files(run, tmp_path):
    def peak(count):
        folder = tmp_path / f"{count}"
        folder.mkdir()
        (folder / "source").write_bytes(b"x")
        for name in range(count - 1):
            os.link(folder / "source", folder / f"{name:06d}-a-name-of-some-length")
        content, code, err = run(folder, "--out", f"{count}.parquet", "--workers", 1, shard=512)
        assert code == 0 and content["errors"] == {"not_an_image": count}
        shutil.rmtree(folder)
        return int(err.split()[-1])

    # MiB. Were they held, the rows would be 16 more.
    assert peak(40_000) - peak(8_000) < 10


# --- Ray


@pytest.mark.full
@pytest.mark.timeout(900)
def test_ray_gives_the_same_rows_though_its_workers_are_killed(
    xrays, start, unbroken, processes_below, command_of, tmp_path, monkeypatch
):
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folder = tmp_path / "copy"
    shutil.copytree(xrays, folder)
    (folder / "0" / "050.png").write_bytes(b"poison")
    process, parts = held(tmp_path, start, folder, "--out", "results.parquet", "--engine", "ray")
    below = processes_below(process.pid)
    actors = [pid for pid in below if "_Actor" in command_of(pid)]
    ports = {address for pid in below for address in listening(pid)}
    assert actors and ports
    for pid in actors:
        os.kill(pid, signal.SIGKILL)
    (tmp_path / "hold").unlink()
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and out.count("\n") == 1, out + err
    content = json.loads(out)
    assert content["engine"] == "ray"
    assert content["errors"] == {"not_an_image": 2, "worker_died": 1}
    assert all(address.is_loopback for address in ports), ports
    was = {row["path"]: row for row in unbroken.to_pylist()}
    now = rows_of(tmp_path / "results.parquet")
    assert list(was) == list(now)
    assert {path for path in was if was[path] != now[path]} == {"0/050.png"}
    assert not parts.exists()


@pytest.mark.full
@pytest.mark.timeout(900)
def test_what_ray_began_is_gone_on_with_by_this_machine_alone(
    xrays, start, run, unbroken, processes_below, tmp_path, monkeypatch
):
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    process, parts = held(tmp_path, start, xrays, "--out", "results.parquet", "--engine", "ray")
    began = processes_below(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "error: stopped with " in err and "Traceback" not in err
    for pid in began:
        while Path(f"/proc/{pid}").exists():
            assert Path(f"/proc/{pid}/stat").read_text()
    (tmp_path / "hold").unlink()
    assert run(xrays, "--out", "results.parquet")[0]["resumed"] > 0
    assert table(tmp_path / "results.parquet").equals(unbroken, check_metadata=True)
    assert not parts.exists()


def listening(pid):
    """The addresses at which a process listens for TCP connections."""
    import ipaddress

    sockets = {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                words = bytes.fromhex(fields[1].partition(":")[0])
                order = range(0, len(words), 4)
                packed = b"".join(words[at : at + 4][::-1] for at in order)
                address = ipaddress.ip_address(packed)
                yield getattr(address, "ipv4_mapped", None) or address
