"""One trial, trained for real on generated X-rays; and its failures, planted."""

import threading
from types import SimpleNamespace

import optuna
import pytest
import torch
from optuna.trial import TrialState

from toolkit.errors import DefinitionError, TrainingError, UsageError
from toolkit.networks.loading import Definition
from toolkit.train.training import Training
from toolkit.tune import trial as trials
from toolkit.tune.ledger import FAILURE, HEARTBEAT, open_ledger
from toolkit.tune.objective import overfits, score
from toolkit.tune.space import LAMBDA, SPACE, final_recipe, first_config, trial_recipe
from toolkit.tune.storage import open_storage
from toolkit.tune.trial import TrialPlan, run_trial
from toolkit.tune.workers import setup

CPU = torch.device("cpu")
PARAMETERS = {"layer_size": 9, "dropout_main": 0.4, "lr_decay_rate_100": 0.6, "reg_lambda": 0.02}


FAILING_SPACE = """
class Own:
    size, inputs, views = 224, (), ()
    def preprocessing(self): pass
    def module(self, classes): pass
    def space(self, trial):
        raise ValueError(f"none for {trial.number}")
"""


@pytest.fixture
def ledger(tmp_path):
    return open_ledger(open_storage(str(tmp_path / "study.journal"), make=True), "s", {}, 3, 0)


def plan(tmp_path, epochs=2, preset="default"):
    return TrialPlan(preset, epochs, tmp_path / "logs", 60)


def run(ledger, tmp_path, tiny, **changes):
    claim = ledger.claim("w")
    run_trial(ledger.study, claim, plan(tmp_path, **changes), tiny, CPU)
    return ledger.trials()[claim.trial.number]


def test_a_trial_is_scored_by_its_last_epoch_and_logged_for_hparams(ledger, tmp_path, tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    trial = run(ledger, tmp_path, tiny)
    accuracies = [trial.user_attrs[f"{part}_accuracy"] for part in ("training", "validation")]
    assert trial.value == score(*accuracies)
    assert trial.params.keys() == SPACE.keys()
    assert trial.user_attrs["epochs"] == 2 == len(trial.intermediate_values)
    assert trial.intermediate_values[1] == accuracies[1]
    events = EventAccumulator(str(tmp_path / "logs" / "000")).Reload()
    scalars = {name: events.Scalars(name)[-1].value for name in events.Tags()["scalars"]}
    assert scalars["hparam/tAccuracy"] == pytest.approx(100 * accuracies[0])
    assert scalars["hparam/vAccuracy"] == pytest.approx(100 * accuracies[1])
    assert scalars["score"] == pytest.approx(trial.value)
    assert scalars["step"] == 2
    assert [each.step for each in events.Scalars("accuracy/val")] == [0, 1]
    for name in ("loss/train_mean", "loss/train_last_batch"):
        assert [each.step for each in events.Scalars(name)] == [0, 1]
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    logged = {name: value.number_value for name, value in start.hparams.items()}
    assert logged.items() >= {**trial.params, "initial_lr": 0.001}.items()
    assert start.hparams["reg_type"].string_value == "L2"


def test_the_same_seed_gives_the_same_score(ledger, tmp_path, tiny):
    first = run(ledger, tmp_path, tiny)
    again = open_ledger(open_storage(str(tmp_path / "again.journal"), make=True), "s", {}, 3, 0)
    assert run(again, tmp_path, tiny).value == first.value


def test_a_trial_stops_when_it_overfits(ledger, tmp_path, tiny, monkeypatch):
    gaps = iter([0.0, 0.1, 0.2, 0.1, 0.2, 0.3, 0.4, 0.5])

    def advance(self):
        self.epoch += 1
        gap = next(gaps)
        return SimpleNamespace(
            epoch=self.epoch - 1,
            train_accuracy=0.5 + gap,
            val_accuracy=0.5,
            train_loss=1.0,
            val_loss=1.0,
            last_batch_loss=1.0,
            lr=0.001,
        )

    monkeypatch.setattr(Training, "advance", advance)
    trial = run(ledger, tmp_path, tiny, epochs=50)
    assert trial.user_attrs["epochs"] == 6
    assert overfits([0.5, 0.6, 0.7, 0.6, 0.7, 0.8], [0.5] * 6)


FAILURES = [
    (TrainingError("the loss is nan"), "diverged"),
    (DefinitionError("own.py:3: 8 is no multiple of 3"), "own.py:3: 8 is no multiple of 3"),
    (torch.cuda.OutOfMemoryError("CUDA out of memory"), "out of memory"),
    (MemoryError(), "out of memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
]


def test_a_failed_trial_is_recorded_and_the_study_goes_on(tmp_path, tiny, monkeypatch):
    storage = open_storage(str(tmp_path / "study.journal"), make=True)
    ledger = open_ledger(storage, "s", {}, len(FAILURES) + 1, 0)
    for error, reason in FAILURES:

        def advance(_self, error=error):
            raise error

        with monkeypatch.context() as planted:
            planted.setattr(Training, "advance", advance)
            trial = run(ledger, tmp_path, tiny)
        assert trial.state == TrialState.FAIL
        assert trial.user_attrs[FAILURE] == reason
    assert run(ledger, tmp_path, tiny).state == TrialState.COMPLETE


def test_a_network_whose_space_fails_for_a_trial_fails_that_trial(ledger, tmp_path, tiny):
    network = tmp_path / "net.py"
    network.write_text(FAILING_SPACE)
    claim = ledger.claim("w")
    whole = TrialPlan("default", 1, tmp_path / "logs", 60, str(network))
    run_trial(ledger.study, claim, whole, tiny, CPU)
    (trial,) = ledger.trials()
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs[FAILURE].endswith("Own.space fails: ValueError: none for 0")
    assert ledger.counted_trials() == [trial]


def test_a_definition_is_tried_without_a_word(caplog):
    class Own:
        def space(self, trial):
            return {"width": trial.suggest_int("width", 1, 9)}

    optuna.logging.set_verbosity(optuna.logging.INFO)
    optuna.logging.enable_propagation()
    try:
        assert first_config(Definition(Own())).keys() == {"width"}
    finally:
        optuna.logging.disable_propagation()
    assert not caplog.records


def test_a_loss_that_is_not_finite_fails_the_trial(ledger, tmp_path, tiny, monkeypatch):
    monkeypatch.setattr("toolkit.tune.space.TRIAL_LR", 1e6)
    assert run(ledger, tmp_path, tiny, epochs=10).user_attrs[FAILURE] == "diverged"


def test_any_other_error_is_not_swallowed(ledger, tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(Training, "advance", lambda _: [][0])
    with pytest.raises(IndexError):
        run(ledger, tmp_path, tiny)


@pytest.mark.parametrize("moment", ["before its last epoch", "after it"])
def test_a_trial_that_others_gave_up_leaves_no_score(ledger, tmp_path, tiny, monkeypatch, moment):
    other = open_ledger(open_storage(str(tmp_path / "study.journal"), make=True), "s", {}, 3, 0)

    def lose(*_):
        other.give_up_worker("w", "lost with its worker")

    target = "advance" if moment == "before its last epoch" else "add_hparams"
    owner = Training if target == "advance" else trials.Log
    original = getattr(owner, target)
    monkeypatch.setattr(owner, target, lambda *each: (lose(), original(*each))[1])
    trial = run(ledger, tmp_path, tiny)
    assert trial.state == TrialState.FAIL
    assert trial.value is None
    states = [each.state for each in other.trials()]
    assert states == [TrialState.FAIL, TrialState.WAITING]


def test_a_heartbeat_goes_on_while_an_epoch_runs(ledger, monkeypatch):
    trial = ledger.claim("w").trial
    seen = threading.Event()
    original = type(trial).set_user_attr

    def spy(self, name, value):
        original(self, name, value)
        if name == HEARTBEAT and value >= 2:
            seen.set()

    monkeypatch.setattr(type(trial), "set_user_attr", spy)
    with trials._heartbeat(trial, 0.01):
        assert [each for each in threading.enumerate() if each.name == "heartbeat"]
        assert seen.wait(60)
    beat = ledger.trials()[0].user_attrs[HEARTBEAT]
    assert beat >= 2
    assert not [each for each in threading.enumerate() if each.name == "heartbeat"]


def test_the_preset_study_trains_as_the_notebook_did():
    recipe = trial_recipe("study", PARAMETERS, 50)
    # The penalty that was drawn is not the one that was used.
    assert recipe.l2 == 0.01 != PARAMETERS[LAMBDA]
    assert (recipe.lr, recipe.batch_size, recipe.epochs, recipe.schedule) == (
        0.001,
        128,
        50,
        "exponential",
    )
    assert recipe.class_weights == "counts_first_seen"
    assert (recipe.constants.edge_mean, recipe.constants.edge_std) == (0.449, 0.226)
    assert (recipe.layer_size, recipe.dropout, recipe.lr_decay) == (9, 0.4, 0.6)
    assert not (recipe.augmentation or recipe.average_decay or recipe.label_smoothing)
    assert not recipe.weight_decay
    assert recipe.dropout_epochs == 1


def test_the_default_mends_the_faults_and_keeps_the_rest():
    study, mended = (trial_recipe(each, PARAMETERS, 50) for each in ("study", "default"))
    changed = {name for name, value in vars(mended).items() if value != getattr(study, name)}
    assert changed == {"preset", "l2", "class_weights", "constants", "dropout_epochs"}
    assert mended.l2 == PARAMETERS[LAMBDA]
    assert mended.class_weights == "inverse"
    assert mended.dropout_epochs is None


def test_a_study_begun_with_dropout_in_every_epoch_does_not_go_on_without(tmp_path, tiny):
    storage = open_storage(str(tmp_path / "study.journal"), make=True)
    for preset in ("default", "study"):
        now = setup(tiny, plan(tmp_path, preset=preset), 0)
        open_ledger(storage, preset, {k: v for k, v in now.items() if k != "dropout_epochs"}, 3, 0)
        if preset == "study":
            with pytest.raises(UsageError, match="dropout_epochs was None, now 1"):
                open_ledger(storage, preset, now, 3, 0)
        else:
            open_ledger(storage, preset, now, 3, 0)


def test_the_final_training_of_the_preset_study_is_the_studys():
    recipe = final_recipe("study", PARAMETERS, 50)
    assert (recipe.lr, recipe.batch_size, recipe.epochs) == (1e-4, 512, 500)
    assert recipe.l2 == PARAMETERS[LAMBDA]
    assert final_recipe("default", PARAMETERS, 50) == trial_recipe("default", PARAMETERS, 50)


def test_the_space_is_the_studys():
    ranges = {name: (each.low, each.high) for name, each in SPACE.items()}
    assert ranges == {
        "layer_size": (8, 28),
        "dropout_main": (0.3, 0.7),
        "lr_decay_rate_100": (0.3, 0.8),
        "reg_lambda": (0.0001, 0.1),
    }
    assert isinstance(SPACE["layer_size"], optuna.distributions.IntDistribution)
    assert not any(each.log for each in SPACE.values())
