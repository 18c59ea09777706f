"""`toolkit tune` as it is used: the installed command, worker processes, a journal on disk."""

import json
import os
import re
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
import pytest
from command_line import Said, begin, here, ok, refused
from optuna.trial import TrialState

from toolkit.commands.options.common import JOURNAL
from toolkit.tune.ledger import FAILURE, LOST, counted_trials
from toolkit.tune.storage import open_storage

PATIENCE = 120


@pytest.fixture(scope="module")
def xrays(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "xrays"
    ok("data", "generate", folder, "--count", 48)
    return folder


@contextmanager
def tuning(xrays, folder, *arguments):
    """Start the command in a group of processes of its own; whatever is left of it is ended."""
    process = begin("tune", "--data", xrays, *arguments, cwd=folder)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def tune(xrays, folder, *arguments):
    """Run the command to its end."""
    with tuning(xrays, folder, *arguments) as process:
        out, err = process.communicate(timeout=240)
    return Said(process.returncode, out, err)


def trials_of(folder, name="default"):
    path = folder / "logs" / "hyperparameter_tunning_ratio_abs" / "study.journal"
    try:
        return optuna.load_study(
            study_name=name, storage=open_storage(str(path), make=False)
        ).get_trials(deepcopy=False)
    except Exception:  # not made yet
        return []


def until(condition, process=None):
    """Wait for the first true answer and return it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if answer := condition():
            return answer
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("waited too long")


def running(folder):
    """Trials that have trained at least one epoch and have not ended."""
    return [
        trial
        for trial in trials_of(folder)
        if trial.state == TrialState.RUNNING and trial.intermediate_values
    ]


def states(trials):
    return [trial.state for trial in trials]


@pytest.mark.full
def test_four_workers_and_a_kill_lose_no_trial_and_count_none_twice(xrays, workers_of, tmp_path):
    arguments = ("--trials", 6, "--workers", 4, "--max-epochs", 4)
    with tuning(xrays, tmp_path, *arguments) as process:
        until(lambda: running(tmp_path), process)
        os.kill(workers_of(process)[0], signal.SIGKILL)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "a worker ended by signal 9" in err
    trials = trials_of(tmp_path)
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(done) == 6
    assert states(counted_trials(trials)) == [TrialState.COMPLETE] * 6
    lost = [trial for trial in trials if trial.user_attrs.get(FAILURE) == LOST]
    for each in lost:
        (retry,) = [t for t in done if t.user_attrs["seed"] == each.user_attrs["seed"]]
        assert each.params.items() <= retry.params.items()
    assert len({trial.user_attrs["seed"] for trial in done}) == 6
    assert len(out.splitlines()) == 1 + 6 + 2
    logs = tmp_path / "logs" / "hyperparameter_tunning_ratio_abs"
    runs = {path.parent.name for path in (logs / "default").glob("*/events.out.tfevents.*")}
    assert runs >= {f"{trial.number:03}" for trial in done}
    assert len(list((logs / "figures" / "default").glob("*.png"))) == 5


@pytest.mark.full
def test_killed_with_its_workers_it_goes_on_where_it_stopped(xrays, tmp_path):
    arguments = ("--trials", 3, "--max-epochs", 4, "--stale-after", 2)
    with tuning(xrays, tmp_path, *arguments) as process:
        until(lambda: len(trials_of(tmp_path)) == 2 and running(tmp_path), process)
        os.killpg(process.pid, signal.SIGKILL)
    before = trials_of(tmp_path)
    assert states(before) == [TrialState.COMPLETE, TrialState.RUNNING]
    done = tune(xrays, tmp_path, *arguments, "--json")
    assert done.code == 0, done.err
    assert "going on with default: 1 of 3 trials done" in done.err
    assert "trial 1 was lost with its worker" in done.err
    after = trials_of(tmp_path)
    assert after[0].value == before[0].value
    assert states(counted_trials(after)) == [TrialState.COMPLETE] * 3
    assert json.loads(done.out)["finished"] == 3


@pytest.fixture(scope="module")
def unbroken(xrays, tmp_path_factory):
    """Two trials that nothing disturbed: their parameters and scores."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert tune(xrays, folder, "--trials", 2, "--max-epochs", 4).code == 0
    return outcomes(folder)


def outcomes(folder):
    return [(trial.params, trial.value, trial.state) for trial in counted_trials(trials_of(folder))]


@pytest.mark.full
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_interrupted_it_says_so_leaves_no_process_and_comes_to_the_unbroken_scores(
    xrays, workers_of, tmp_path, unbroken, how
):
    arguments = ("--trials", 2, "--max-epochs", 4)
    with tuning(xrays, tmp_path, *arguments) as process:
        until(lambda: running(tmp_path), process)
        workers = workers_of(process)
        process.send_signal(how)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert re.search(r"error: stopped with \d of 2 trials done: the same command goes on\n$", err)
    assert "Traceback" not in err
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert not running(tmp_path)
    assert tune(xrays, tmp_path, *arguments).code == 0
    assert outcomes(tmp_path) == unbroken
    assert [state for _, _, state in unbroken] == [TrialState.COMPLETE] * 2


@pytest.mark.full
def test_two_commands_on_one_journal_share_the_trials(xrays, tmp_path):
    arguments = ("--trials", 4, "--max-epochs", 2)
    with (
        tuning(xrays, tmp_path, *arguments) as one,
        tuning(xrays, tmp_path, *arguments) as two,
    ):
        for process in (one, two):
            _, err = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, err
    trials = trials_of(tmp_path)
    assert states(counted_trials(trials)) == [TrialState.COMPLETE] * 4
    assert len({trial.user_attrs["worker"] for trial in counted_trials(trials)}) == 2


@pytest.fixture(scope="module")
def begun(xrays, tmp_path_factory):
    """A folder with the study `default`, which had no time for a trial, and what it said."""
    folder = tmp_path_factory.mktemp("begun")
    words = ("--trials", 50, "--max-epochs", 1, "--timeout", "0s")
    return folder, here("tune", "--data", xrays, *words, cwd=folder)


def test_no_trial_begins_once_the_time_is_over(begun):
    folder, said = begun
    assert said.code == 0, said.err
    assert "the time is over: the same command goes on" in said.err
    assert trials_of(folder) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("tune --trials 50 --max-epochs 2", "epochs was 1, now 2"),
        ("tune report --study nope", "there are default"),
        ("tune report --csv nope.csv", "cannot be read"),
        ("tune report --csv a.csv --study s", "neither"),
        ("tune report --storage nope", "no studies at"),
        ("train --from-study nope", "there are default"),
        ("train --from-study default --top 3", "not 3"),
    ],
)
def test_what_the_studies_there_do_not_give_is_refused(begun, xrays, words, message):
    data = () if "report" in words else ("--data", xrays)
    assert message in refused(*words.split(), *data, cwd=begun[0])


@pytest.mark.full
def test_a_study_is_trained_from_and_reported_and_not_gone_on_with_differently(xrays, tmp_path):
    study = ("tune", "--data", xrays, "--trials", 2, "--max-epochs")
    done, _ = ok(*study, 1, cwd=tmp_path)
    assert done["finished"] == len(done["best"]) == 2 and done["figures"]
    assert all((tmp_path / path).is_file() for path in done["figures"])
    assert "epochs was 1, now 2" in refused(*study, 2, cwd=tmp_path)
    trained = ("train", "--data", xrays, "--from-study", "default")
    ok(*trained, "--name", "m", "--epochs", 1, cwd=tmp_path)
    record = json.loads((tmp_path / "saved_models" / "m.json").read_text())
    assert record["tuning"]["study"] == "default"
    assert sorted(record["tuning"]["trials"]) == [0, 1]
    sizes = [trial.params["layer_size"] for trial in trials_of(tmp_path)]
    assert record["network"]["layer_size"] == round(sum(sizes) / 2)
    # What is told does not hang on where its pictures may lie.
    (tmp_path / "file").write_text("")
    place = ("--storage", Path("logs") / JOURNAL, "--logs", "file")
    content, err = ok("tune", "report", *place, cwd=tmp_path)
    assert content == done | {"figures": []}
    assert "there are no pictures: cannot write to file" in err
    assert "not 3" in refused(*trained, "--top", 3, cwd=tmp_path)
    assert "leave out --preset" in refused(*trained, "--preset", "study", cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trials", "0"), "--trials"),
        (("--workers", "0"), "--workers"),
        (("--max-epochs", "0"), "--max-epochs"),
        (("--timeout", "2"), "give it as 90s"),
        (("--study", "../x"), "cannot name"),
        (("--storage", "sqlite:///x.db"), "no kind"),
        (("--storage", "file"), "not a journal"),
        (("--logs", "file"), "cannot write to"),
        (("--data", "nope"), "no data folder"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(xrays, tmp_path, arguments, message):
    (tmp_path / "file").write_text("not ours\n")
    assert message in refused("tune", "--data", xrays, *arguments, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "not ours\n"


@pytest.mark.full
def test_a_log_that_cannot_be_written_ends_the_study_in_one_line(xrays, tmp_path):
    folder = tmp_path / "logs" / "hyperparameter_tunning_ratio_abs" / "default"
    folder.mkdir(parents=True)
    (folder / "000").write_text("in the way")
    said = tune(xrays, tmp_path, "--trials", 2, "--max-epochs", 1)
    assert said.code == 2 and "Traceback" not in said.err
    (line,) = [each for each in said.err.splitlines() if each.startswith("error: ")]
    assert f"cannot write logs to {Path('logs') / folder.relative_to(tmp_path / 'logs')}" in line
    assert counted_trials(trials_of(tmp_path))[0].state == TrialState.WAITING
