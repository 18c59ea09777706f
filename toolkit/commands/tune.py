"""`toolkit tune`: a study of hyperparameters, and what it found."""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.commands.options.common import (
    JOURNAL,
    TUNING,
    CacheOption,
    ConflictsOption,
    DataOption,
    DeviceOption,
    GroupsOption,
    LabelsOption,
    NetworkOption,
    PatientsOption,
    Preset,
    SplitOption,
    StorageOption,
)
from toolkit.console import LOGS, Console, JsonOption, LogsOption
from toolkit.errors import DataError, InterruptedRunError, UsageError
from toolkit.extras import require

if TYPE_CHECKING:
    from optuna.study import Study

    from toolkit.train.dataset import Dataset
    from toolkit.tune.ledger import Ledger
    from toolkit.tune.workers import Tuning

MAX_SEED = 2**32 - 1
_UNITS = {"s": 1, "m": 60, "h": 3600}

app = typer.Typer(
    help="Search the hyperparameters as the study did; resumable, on one machine or many.",
    invoke_without_command=True,
)

StudyOption = Annotated[
    str | None, typer.Option("--study", metavar="NAME", help="Of the study; else the preset's.")
]


@app.callback()
def tune(
    context: typer.Context,
    data: DataOption = None,
    network: NetworkOption = None,
    trials: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many the study shall come to.")
    ] = 50,
    preset: Annotated[
        Preset, typer.Option(help="The study as it ran, or its faults mended.")
    ] = "default",
    study: StudyOption = None,
    storage: StorageOption = None,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, max=256, help="Processes on this machine.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Of everything random.", min=0, max=MAX_SEED)] = 0,
    max_epochs: Annotated[
        int, typer.Option(metavar="N", min=1, help="Most epochs of a trial.")
    ] = 50,
    timeout: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="No trial begins after it: 90s, 30m or 2h."),
    ] = None,
    labels: LabelsOption = None,
    split: SplitOption = None,
    patients: PatientsOption = None,
    groups: GroupsOption = None,
    allow_conflicts: ConflictsOption = False,
    cache: CacheOption = None,
    device: DeviceOption = "auto",
    stale_after: Annotated[
        float,
        typer.Option(metavar="S", min=1, help="Seconds of silence after which a trial is lost."),
    ] = 60.0,
    logs: LogsOption = LOGS,
    as_json: JsonOption = False,
) -> None:
    """Run trials until the study has N; the same command goes on, or joins from elsewhere."""
    if command := context.invoked_subcommand:
        before = [each.opts[0] for each in context.command.params if _is_given(context, each.name)]
        if before:
            raise UsageError(f"{before[0]} stands before {command}: give it after {command}")
        return
    deadline = None if timeout is None else time.time() + _seconds(timeout)
    for module in ("torch", "optuna", "tensorboard", "matplotlib"):
        require(module, "train")
    from toolkit.commands.options.data import DataChoice, load
    from toolkit.commands.options.network import definition_to_tune
    from toolkit.files import require_parent, require_writable
    from toolkit.model.files import checked_name
    from toolkit.networks.base import shape_of
    from toolkit.train.training import device_of
    from toolkit.tune.trial import TrialPlan
    from toolkit.tune.workers import Tuning, setup

    console = Console(as_json)
    name = checked_name(study or ("own" if network else preset))
    chosen_device = device_of(device).type
    require_writable(logs / TUNING / name)
    if storage and "://" not in storage:
        require_parent(Path(storage), "--storage")
    choice = DataChoice(
        data, labels, split, patients, groups, allow_conflicts, cache, own=network is not None
    )
    definition = definition_to_tune(network, choice.label_map)
    if network and preset != "default":
        raise UsageError("--preset is of the study's network: that of --network has its own space")
    dataset = load(choice, preset, shape_of(definition.network), console)
    if "val" not in dataset.parts:
        raise DataError("the data has no part 'val', by which trials are judged: add one")
    plan = TrialPlan(preset, max_epochs, logs / TUNING / name, stale_after, network)
    tuning = Tuning(
        storage=storage or str(logs / JOURNAL),
        study=name,
        trials=trials,
        plan=plan,
        seed=seed,
        workers=workers,
        device=chosen_device,
        deadline=deadline,
        setup=setup(dataset, plan, seed, definition),
    )
    ledger = _run(tuning, dataset)
    if not ledger.complete():
        console.notice("the time is over: the same command goes on")
    _tell(ledger.study, logs / TUNING / "figures" / name, console)


@app.command("report")
def report(
    context: typer.Context,
    study: Annotated[
        str | None, typer.Option("--study", metavar="NAME", help="A study of the storage.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="A table of trials instead.")
    ] = None,
    storage: StorageOption = None,
    logs: LogsOption = LOGS,
    as_json: JsonOption = False,
) -> None:
    """Print the best trials and the importances of a study, and draw its pictures."""
    for module in ("torch", "optuna", "matplotlib"):
        require(module, "train")
    from toolkit.tune import report
    from toolkit.tune.ledger import find_study
    from toolkit.tune.storage import open_storage

    if csv and (study or _is_given(context, "storage")):
        raise UsageError("give a study or a table: --csv goes with neither --study nor --storage")
    name = csv.stem if csv else study or "default"
    folder = logs / TUNING / "figures" / name
    if csv:
        found = report.read_csv(csv)
    else:
        location = storage or str(logs / JOURNAL)
        found = find_study(open_storage(location, make=False), name)
    if not report.finished_trials(found):
        raise UsageError(f"{name!r} has no finished trial to tell of: run `toolkit tune`")
    _tell(found, folder, Console(as_json))


def _run(tuning: "Tuning", dataset: "Dataset") -> "Ledger":
    from toolkit.progress import Progress
    from toolkit.tune.display import Display
    from toolkit.tune.workers import run

    done = 0
    with Progress("trials", tuning.trials, every=None) as progress:
        display = Display(tuning.study, tuning.trials, progress)

        def on_change(ledger: "Ledger") -> None:
            nonlocal done
            done = display.update(ledger)

        try:
            return run(tuning, dataset, on_change)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"stopped with {done} of {tuning.trials} trials done: the same command goes on"
            ) from None


def _tell(study: "Study", folder: Path, console: Console) -> None:
    """Print what a study found, pictures or not, and draw them where they can be written."""
    from toolkit.files import require_writable
    from toolkit.tune import report
    from toolkit.tune.figures import draw

    pictures: list[Path] = []
    try:
        require_writable(folder)
        pictures = draw(study, folder)
    except UsageError as error:
        console.notice(f"warning: there are no pictures: {error}")
    intervals = report.importance_intervals(study)
    console.result(
        report.summary(study)
        | {"importance_intervals": intervals, "figures": [str(path) for path in pictures]},
        "\n".join([report.text(study, intervals), *([f"figures  {folder}"] if pictures else [])]),
    )


def _is_given(context: typer.Context, name: str | None) -> bool:
    """Return whether an option is on the command line, not only in the environment."""
    source = context.get_parameter_source(name) if name else None
    return source is not None and source.name == "COMMANDLINE"


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if not found:
        raise UsageError(f"--timeout {text!r} is no time: give it as 90s, 30m or 2h")
    return float(found[1]) * _UNITS[found[2]]
