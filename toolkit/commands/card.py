"""`toolkit card`: a model's figures as Markdown."""

from typing import Annotated

import typer

from toolkit.console import MODELS, NAME, Console, JsonOption, ModelsOption
from toolkit.errors import ManifestError
from toolkit.model.files import ModelFiles


def card(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="The model's name.")] = NAME,
    part: Annotated[str, typer.Option(help="Of the data that it was trained with.")] = "val",
    models: ModelsOption = MODELS,
    as_json: JsonOption = False,
) -> None:
    """Print the figures that NAME's manifest keeps, as tables for a model card."""
    from toolkit.model import manifest
    from toolkit.model.card import figures

    path = ModelFiles(models, name).manifest
    record = manifest.load(path)
    try:
        text = figures(record, part)
    except (LookupError, TypeError, ValueError) as error:
        raise ManifestError(f"{path} lacks figures of a card: {error!r}") from error
    Console(as_json).result({"name": name, "part": part, "markdown": text}, text)
