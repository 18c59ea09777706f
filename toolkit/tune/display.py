"""How a study goes, as it goes: a table on a terminal, else a line for each trial that ends."""

import sys
import time
from types import TracebackType
from typing import Self

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.live import Live
from rich.table import Table

from toolkit.tune.ledger import FAILURE, Ledger, placed
from toolkit.tune.report import finished


class Display:
    """Shows a study on stderr.

    Args:
        name: of the study.
        trials: how many it shall come to.
        workers: processes on this machine.
    """

    def __init__(self, name: str, trials: int, workers: int) -> None:
        self._name = name
        self._trials = trials
        self._workers = workers
        self._screen = Console(stderr=True)
        self._live = Live(console=self._screen, refresh_per_second=4)
        self._told: set[int] | None = None

    def __enter__(self) -> Self:
        if self._screen.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def update(self, ledger: Ledger) -> int:
        """Show the study as it is now; return how many trials are done."""
        trials = placed(ledger.trials())
        done = [trial for trial in trials if trial.state.is_finished()]
        if self._screen.is_terminal:
            self._live.update(self._table(ledger, trials, done))
        else:
            self._lines(done)
        return len(done)

    def _lines(self, done: list[FrozenTrial]) -> None:
        if self._told is None:
            self._told = {trial.number for trial in done}
            if done:
                self._say(f"going on with {self._name}: {len(done)} of {self._trials} trials done")
        for trial in done:
            if trial.number not in self._told:
                self._told.add(trial.number)
                self._say(f"{len(self._told)}/{self._trials}  {_ended(trial)}")

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def _table(self, ledger: Ledger, trials: list[FrozenTrial], done: list[FrozenTrial]) -> Table:
        table = Table(title=f"study {self._name}", title_justify="left", show_header=False)
        table.add_row("trials", f"{len(done)} of {self._trials} done{self._remaining(done)}")
        best = finished(ledger.study)[:1]
        table.add_row("best", _ended(best[0]) if best else "none yet")
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                epoch = len(trial.intermediate_values)
                table.add_row("running", f"trial {trial.number}, epoch {epoch + 1}")
        return table

    def _remaining(self, done: list[FrozenTrial]) -> str:
        spans = [each.duration.total_seconds() for each in done if each.duration]
        if not spans:
            return ""
        seconds = sum(spans) / len(spans) * (self._trials - len(done)) / self._workers
        return f", about {time.strftime('%H:%M:%S', time.gmtime(seconds))} left"


def _ended(trial: FrozenTrial) -> str:
    if trial.value is None:
        return f"trial {trial.number} failed: {trial.user_attrs.get(FAILURE)}"
    parameters = "  ".join(f"{name} {value:.4g}" for name, value in trial.params.items())
    return f"trial {trial.number} score {trial.value:.4f}  {parameters}"
