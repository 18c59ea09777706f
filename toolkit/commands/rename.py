"""`toolkit rename`: another name for a model and its logs."""

from typing import Annotated

import typer

from toolkit.console import (
    LOGS,
    MODELS,
    Console,
    JsonOption,
    LogsOption,
    ModelsOption,
    log_folder,
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
    from toolkit.model.renaming import rename as run

    former, later = log_folder(logs, old), log_folder(logs, new)
    if former.exists() and later.exists():
        raise UsageError(f"the logs {later} are there already: choose another name than {new!r}")
    target = run(ModelFiles(models, old), new)
    content = {"name": new, "manifest": str(target.manifest)}
    lines = [f"{old} is {new} now", f"manifest  {target.manifest}"]
    if former.exists():
        try:
            former.rename(later)
        except OSError as error:
            raise UsageError(
                f"{old} is {new} now, but its logs stay in {former}: {error.strerror}"
            ) from error
        content["logs"] = str(later)
        lines.append(f"logs      {later}")
    Console(as_json).result(content, "\n".join(lines))
