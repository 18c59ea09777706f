"""What is told of a study: on the study's own 50 logged trials, and on small ones."""

import csv
import math
import re

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from PIL import Image

from toolkit.errors import DataError, UsageError
from toolkit.progress import Progress
from toolkit.tune import report
from toolkit.tune.display import Display
from toolkit.tune.ledger import FAILURE, open_ledger
from toolkit.tune.space import SPACE
from toolkit.tune.storage import open_storage

PICTURES = {"history", "slices", "parallel_coordinates", "scatterplot_matrix", "importances"}


RESAMPLES = 40


@pytest.fixture
def draw():
    """The function that draws pictures; what it draws with takes a second to import."""
    from toolkit.tune.figures import draw

    return draw


@pytest.fixture(scope="module")
def logged(shared):
    return report.read_csv(shared / "study" / "trials.csv")


def trial(score, **changes):
    parameters = {
        "layer_size": 10,
        "dropout_main": 0.5,
        "lr_decay_rate_100": 0.5,
        "reg_lambda": 0.01,
    }
    return create_trial(params=parameters | changes, distributions=dict(SPACE), value=score)


def test_the_studys_two_best_trials_give_its_final_parameters(logged):
    best = report.best(logged, 2)
    assert [each.number for each in best] == [40, 32]
    means = report.mean_parameters(best)
    # What the study trained its final model with, as it rounded them; its decay it chose lower.
    assert means["layer_size"] == 28
    assert round(means["dropout_main"], 1) == 0.5
    assert math.floor(1000 * means["reg_lambda"]) == 27


def test_a_table_holds_what_the_log_says(logged, shared):
    with (shared / "study" / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row, each in zip(rows, logged.trials, strict=True):
        told = report.row(each)
        assert told["trial"] == int(row["trial"])
        assert told["score"] == float(row["score"])
        assert told["validation_accuracy"] == float(row["hparam/vAccuracy"]) / 100
        assert told["epochs"] == int(float(row["step"]))
    summary = report.summary(logged)
    assert [each["trial"] for each in summary["best"][:2]] == [40, 32]
    assert len(summary["best"]) == 10
    assert sum(summary["importances"].values()) == pytest.approx(1)
    lines = report.text(logged, report.importance_intervals(logged, RESAMPLES)).splitlines()
    assert lines[1].split()[:2] == ["40", "0.4857"]
    assert re.match(r"importance .*: reg_lambda \d+% \(\d+% to \d+%\), ", lines[-1])


def scored(scores_of, count=60):
    """A study of random parameters whose scores are a function of them."""
    generator = np.random.default_rng(0)
    parameters = [
        {name: generator.uniform(each.low, each.high) for name, each in SPACE.items()}
        for _ in range(count)
    ]
    for each in parameters:
        each["layer_size"] = round(each["layer_size"])
    return report.study_of([trial(scores_of(each, generator), **each) for each in parameters])


@pytest.mark.full
def test_of_scores_that_nothing_decides_every_importance_is_uncertain():
    study = scored(lambda _, generator: generator.random())
    intervals = report.importance_intervals(study)
    assert intervals.keys() == SPACE.keys()
    assert all(high - low > 0.2 for low, high in intervals.values())
    assert max(low for low, _ in intervals.values()) < min(high for _, high in intervals.values())


def test_the_interval_of_the_parameter_that_decides_lies_above_all_others():
    study = scored(lambda parameters, _: parameters["dropout_main"])
    intervals = report.importance_intervals(study, RESAMPLES)
    lowest = intervals.pop("dropout_main")[0]
    assert all(lowest > high for _, high in intervals.values())
    assert report.importances(study)["dropout_main"] > lowest


def test_intervals_are_the_same_each_time(logged):
    first = report.importance_intervals(logged, 5)
    assert report.importance_intervals(logged, 5) == first
    assert report.importance_intervals(logged, 5, 1) != first


def test_every_picture_of_the_study_is_drawn(draw, logged, tmp_path):
    paths = draw(logged, tmp_path / "figures")
    assert {path.stem for path in paths} == PICTURES
    for path in paths:
        with Image.open(path) as picture:
            assert min(picture.size) > 300
            # A blank picture has one colour.
            assert len(picture.convert("L").getcolors()) > 20


@pytest.mark.full
def test_the_parallel_coordinates_show_the_best_half(draw, logged, tmp_path, monkeypatch):
    from optuna.visualization import matplotlib as pictures

    shown = []
    original = pictures.plot_parallel_coordinate
    monkeypatch.setattr(
        pictures, "plot_parallel_coordinate", lambda study: (shown.append(study), original(study))
    )
    draw(logged, tmp_path)
    scores = sorted((each.value for each in logged.trials), reverse=True)
    assert sorted((each.value for each in shown[0].trials), reverse=True) == scores[:25]


NO_IMPORTANCE = [[0.3], [0.3, 0.3, 0.3], [0.3, -math.inf]]


@pytest.mark.parametrize("scores", NO_IMPORTANCE)
def test_what_cannot_be_told_is_left_out(scores):
    study = report.study_of([trial(score) for score in scores])
    assert report.importances(study) == report.importance_intervals(study) == {}
    assert "importance" not in report.text(study, report.importance_intervals(study))
    assert report.summary(study)["finished"] == len(scores)


@pytest.mark.parametrize(
    "scores",
    [pytest.param(each, marks=[pytest.mark.full] * (len(each) > 1)) for each in NO_IMPORTANCE],
)
def test_what_cannot_be_told_is_not_drawn(draw, scores, tmp_path):
    study = report.study_of([trial(score) for score in scores])
    assert {path.stem for path in draw(study, tmp_path)} == PICTURES - {"importances"}


def test_no_finished_trial_draws_nothing(draw, tmp_path):
    assert draw(report.study_of([]), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_equal_scores_are_told_by_number():
    study = report.study_of([trial(0.3), trial(0.5), trial(0.5)])
    assert [each.number for each in report.finished_trials(study)] == [1, 2, 0]


def test_a_score_that_is_not_finite_is_null_in_json():
    study = report.study_of([trial(-math.inf)])
    assert report.summary(study)["best"][0]["score"] is None


def test_a_failed_trial_is_told_with_its_reason():
    failed = create_trial(state=TrialState.FAIL, user_attrs={FAILURE: "diverged"})
    study = report.study_of([trial(0.3), failed])
    assert report.summary(study)["failed"] == [{"trial": 1, "reason": "diverged"}]
    assert "failed: 1 (diverged)" in report.text(study, report.importance_intervals(study))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no trials"),
        ("layer_size,score\n", "no trials"),
        ("layer_size,score\n9,0.1\n", "lacks the columns dropout_main"),
        ("{header}\n9,0.5,0.5,0.01,x\n", "line 2"),
        ("{header}\n9,0.5,0.5,0.01,0.1\n9,0.5\n", "line 3"),
        ("{header}\n9,nan,0.5,0.01,0.1\n", "not finite"),
        ("{header}\n90,0.5,0.5,0.01,0.1\n", "line 2"),
        ("{header}\n9,0.5,0.5,0.01,nan\n", "line 2"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, message):
    path = tmp_path / "trials.csv"
    path.write_text(text.replace("{header}", ",".join([*SPACE, "score"])))
    with pytest.raises(DataError, match=message):
        report.read_csv(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a\0b\n"])
def test_a_table_that_is_no_text_is_refused(tmp_path, content):
    path = tmp_path / "trials.csv"
    path.write_bytes(content)
    with pytest.raises(DataError):
        report.read_csv(path)


def test_a_recipe_names_the_trials_that_it_came_from(tmp_path):
    storage = open_storage(str(tmp_path / "study.journal"), make=True)
    study = open_ledger(storage, "s", {"preset": "default", "epochs": 7, "seed": 5}, 9, 5).study
    study.add_trials([trial(0.1), trial(0.3, layer_size=20), trial(0.2, dropout_main=0.7)])
    recipe, record = report.final_training(study, 2)
    assert (record.study, record.seed, record.trials, record.scores) == ("s", 5, (1, 2), (0.3, 0.2))
    assert (recipe.layer_size, recipe.dropout, recipe.epochs) == (15, 0.6, 7)
    assert record.parameters["layer_size"] == 15
    with pytest.raises(UsageError, match="has 3 finished trials, not 4"):
        report.final_training(study, 4)


def test_a_foreign_study_gives_no_recipe():
    study = optuna.create_study(direction="maximize")
    study.add_trial(trial(0.3))
    with pytest.raises(UsageError, match="not made by"):
        report.final_training(study, 1)


@pytest.fixture
def branching(tmp_path):
    """A study of a network whose space asks for more where it is given more, in a journal."""
    ledger = open_ledger(
        open_storage(str(tmp_path / "journal.log"), make=True), "s", {"network": "n"}, 12, 0
    )

    def value(trial):
        kind = trial.suggest_categorical("kind", ["plain", None, "deep"])
        width = trial.suggest_int("width", 1, 9)
        return width + (10 + trial.suggest_float("more", 0, 1) if kind == "deep" else 0)

    for _ in range(12):
        taken = ledger.claim("w").trial
        ledger.study.tell(taken, value(taken))
    assert len({len(each.params) for each in ledger.study.trials}) == 2
    return ledger


def test_trials_of_a_space_that_branches_are_all_told(branching, capsys):
    study = branching.study
    intervals = report.importance_intervals(study, 20)
    assert len(report.finished_trials(study)) == 12
    assert report.best(study, 1)[0].number == study.best_trial.number
    assert report.importances(study).keys() == intervals.keys() == {"kind", "width"}
    table = report.table(report.finished_trials(study))
    assert re.search(r"deep +\d +0\.\d+$", table, re.MULTILINE)
    assert re.search(r"None +\d +-$", table, re.MULTILINE)
    assert report.text(study, intervals).startswith(table[:40])
    with Progress("trials", 12, every=None) as progress:
        display = Display("s", 12, progress)
        assert display.update(branching) == 12
        taken = branching.study.ask()
        taken.suggest_categorical("kind", ["plain", None, "deep"])
        branching.study.tell(taken, 1.0)
        display.update(branching)
    assert "13/12  trial 12 score 1.0000  kind " in capsys.readouterr().err


@pytest.mark.full
def test_pictures_of_a_space_that_branches_are_drawn(draw, branching, tmp_path):
    assert {path.stem for path in draw(branching.study, tmp_path / "drawn")} == PICTURES
