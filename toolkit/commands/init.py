"""`toolkit init`: a network of one's own to begin with."""

from pathlib import Path
from typing import Annotated

import typer

from toolkit.console import Console, JsonOption
from toolkit.errors import UsageError

TEMPLATE = Path(__file__).with_name("network_template.py.txt")


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE.py", help="A new file.")],
    as_json: JsonOption = False,
) -> None:
    """Write a network of one's own, which works at once, to FILE.py."""
    from toolkit.files import require_parent, write_bytes

    if file.suffix != ".py":
        raise UsageError(f"{file} does not end in .py: a network is defined in Python")
    if file.exists():
        raise UsageError(f"{file} is there already: give a new file")
    require_parent(file, "the path")
    write_bytes(file, TEMPLATE.read_bytes())
    Console(as_json).result(
        {"file": str(file)},
        f"{file}: change it, then\nnext  toolkit train --network {file} --data DIR --name NAME",
    )
