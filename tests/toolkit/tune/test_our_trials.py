"""The fifty trials whose journal and logs the repository holds, read back."""

import shutil
from pathlib import Path

import pytest

from toolkit.tune.ledger import find_study
from toolkit.tune.objective import score
from toolkit.tune.report import finished_trials
from toolkit.tune.storage import open_storage
from toolkit.tune.trial import TRAINING_ACCURACY, VALIDATION_ACCURACY

LOGS = Path(__file__).resolve().parents[3] / "logs" / "hyperparameter_tunning_ratio_abs"
TRIALS = 50


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """The finished trials; of a copy, so that nothing is written beside the journal."""
    journal = LOGS / "study.journal"
    if not journal.is_file():
        pytest.skip("the repository holds no journal of trials")
    copy = shutil.copy(journal, tmp_path_factory.mktemp("journal"))
    found = finished_trials(find_study(open_storage(str(copy), make=False), "study"))
    if len(found) < TRIALS:
        pytest.skip(f"the journal has {len(found)} finished trials of {TRIALS}")
    return found


def test_fifty_trials_are_finished_and_scored_by_the_formula(trials):
    assert len(trials) == TRIALS
    for each in trials:
        accuracies = each.user_attrs[TRAINING_ACCURACY], each.user_attrs[VALIDATION_ACCURACY]
        assert each.value == score(*accuracies)
        assert each.user_attrs["epochs"] == len(each.intermediate_values)


def test_the_hparams_log_of_each_trial_says_the_same(trials):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for each in trials:
        events = EventAccumulator(str(LOGS / "study" / f"{each.number:03}")).Reload()
        logged = {name: events.Scalars(name)[-1].value for name in events.Tags()["scalars"]}
        assert logged["score"] == pytest.approx(each.value, abs=1e-6)
        for name, key in (
            ("hparam/tAccuracy", TRAINING_ACCURACY),
            ("hparam/vAccuracy", VALIDATION_ACCURACY),
        ):
            assert logged[name] == pytest.approx(100 * each.user_attrs[key])
