"""How a study goes, as it goes: a line for each trial that ends, and a bar on a terminal."""

from optuna.trial import FrozenTrial, TrialState

from toolkit.progress import Progress
from toolkit.tune.ledger import FAILURE, Ledger, counted_trials
from toolkit.tune.report import finished_trials, parameter_text


class Display:
    """Shows a study on stderr.

    Args:
        name: of the study.
        trials: how many it shall come to.
        progress: that shows it.
    """

    def __init__(self, name: str, trials: int, progress: Progress) -> None:
        self._name = name
        self._trials = trials
        self._progress = progress
        self._told: set[int] | None = None

    def update(self, ledger: Ledger) -> int:
        """Show the study as it is now; return how many trials are done."""
        trials = counted_trials(ledger.trials())
        done = [trial for trial in trials if trial.state.is_finished()]
        if self._told is None:
            self._told = {trial.number for trial in done}
            if done:
                self._progress.say(
                    f"going on with {self._name}: {len(done)} of {self._trials} trials done"
                )
        for trial in done:
            if trial.number not in self._told:
                self._told.add(trial.number)
                self._progress.say(f"{len(self._told)}/{self._trials}  {_result(trial)}")
        best = [f"best {trial.value:.4f}" for trial in finished_trials(ledger.study)[:1]]
        running = [
            f"trial {trial.number} in epoch {len(trial.intermediate_values) + 1}"
            for trial in trials
            if trial.state == TrialState.RUNNING
        ]
        self._progress.reach(len(done), "  ".join(best + running))
        return len(done)


def _result(trial: FrozenTrial) -> str:
    if trial.value is None:
        return f"trial {trial.number} failed: {trial.user_attrs.get(FAILURE)}"
    parameters = "  ".join(
        f"{name} {parameter_text(value)}" for name, value in trial.params.items()
    )
    return f"trial {trial.number} score {trial.value:.4f}  {parameters}"
