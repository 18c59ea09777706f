"""`toolkit rename`: another name for a model and its logs."""

from pathlib import Path
from typing import Annotated

import typer

from toolkit.console import (
    LOGS,
    MODELS,
    Console,
    JsonOption,
    LogsOption,
    ModelsOption,
)
from toolkit.errors import UsageError
from toolkit.model.files import ModelFiles


def rename(
    old: Annotated[str, typer.Argument(metavar="OLD", help="What the model is called.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="What it shall be called.")],
    models: ModelsOption = MODELS,
    logs: LogsOption = LOGS,
    as_json: JsonOption = False,
) -> None:
    """Rename a model: its files, the former one that is kept beside it, and its logs."""
    from toolkit.files import held_signals
    from toolkit.train.log_folder import log_folder, sole_training

    with sole_training(ModelFiles(models, old), log_folder(logs, old)), held_signals():
        content, lines = _rename(old, new, models, logs)
    Console(as_json).result(content, "\n".join(lines))


def _rename(old: str, new: str, models: Path, logs: Path) -> tuple[dict[str, str], list[str]]:
    """Rename a model and its logs; return what to say of it, as values and as lines."""
    from toolkit.model.renaming import rename as run
    from toolkit.train.log_folder import log_folder

    logs_of = (log_folder(logs, old).folders, log_folder(logs, new).folders)
    moves = [(former, later) for former, later in zip(*logs_of, strict=True) if former.exists()]
    taken = next((later for _, later in moves if later.exists()), None)
    if taken:
        raise UsageError(f"the logs {taken} are there already: choose another name than {new!r}")
    target = run(ModelFiles(models, old), new)
    content = {"name": new, "manifest": str(target.manifest)}
    lines = [f"{old} is {new} now", f"manifest  {target.manifest}"]
    for former, later in moves:
        try:
            former.rename(later)
        except OSError as error:
            raise UsageError(
                f"{old} is {new} now, but its logs stay in {former}: {error.strerror}"
            ) from error
    if moves:
        content["logs"] = str(moves[0][1])
        lines.append(f"logs      {moves[0][1]}")
    return content, lines
