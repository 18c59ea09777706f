"""What the commands say: notices on stderr, results on stdout, as text or as one JSON object."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.errors import escaped
from toolkit.files import require_parent
from toolkit.model.files import DEFAULT_NAME

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")
]


def in_a_folder(option: typer.CallbackParam, path: Path | None) -> Path | None:
    """Return the folder that an option names, if it could be made where it is to be.

    Raises:
        UsageError: the folder above it is not there.
    """
    if path is not None:
        require_parent(path, option.opts[0])
    return path


ModelsOption = Annotated[
    Path,
    typer.Option("--models", metavar="DIR", help="Where the models lie.", callback=in_a_folder),
]
LogsOption = Annotated[
    Path, typer.Option("--logs", metavar="DIR", help="Where the logs go.", callback=in_a_folder)
]
NameOption = Annotated[str, typer.Option("--name", help="What the model is called.")]

MODELS = Path("saved_models")
LOGS = Path("logs")
NAME = DEFAULT_NAME
_SHOWN = 10


class Console:
    """One command's output.

    Args:
        as_json: whether the result is printed as JSON.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def notice(self, line: str) -> None:
        """Say something on stderr."""
        print(escaped(line), file=sys.stderr, flush=True)

    def notices(self, lines: Iterable[str], summary: str) -> None:
        """Say the first few of `lines` and then the summary; nothing where there are none."""
        lines = list(lines)
        for line in lines[:_SHOWN]:
            self.notice(line)
        if len(lines) > _SHOWN:
            self.notice(f"... and {len(lines) - _SHOWN} more")
        if lines:
            self.notice(summary)

    def result(self, content: dict[str, Any], text: str) -> None:
        """Print the result on stdout: `content` as JSON, or `text`."""
        if self.as_json:
            print(json.dumps(content, allow_nan=False), flush=True)
        else:
            print(escaped(text), flush=True)
