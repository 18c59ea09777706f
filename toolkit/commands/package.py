"""`toolkit package`: a proven model to a bento, and to an image that starts anywhere."""

import os
from pathlib import Path
from typing import Annotated

import typer

from toolkit.commands.options.common import Backend, Image
from toolkit.console import MODELS, NAME, Console, JsonOption, ModelsOption
from toolkit.errors import UsageError
from toolkit.extras import require
from toolkit.model.files import ModelFiles


def package(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="The model's name.")] = NAME,
    image: Annotated[Image | None, typer.Option(help="Build this image of the bento too.")] = None,
    backend: Annotated[
        Backend | None, typer.Option(help="What builds the image; else what is installed.")
    ] = None,
    opt: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="With --image: an option of the backend's build."),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the image's bill of materials goes.")
    ] = Path("dist"),
    models: ModelsOption = MODELS,
    as_json: JsonOption = False,
) -> None:
    """Put NAME, proven and unchanged, into a bento; with --image into a container image."""
    from toolkit.files import require_parent
    from toolkit.package import bento as bentos
    from toolkit.package import image as images
    from toolkit.package import sbom

    if image is None and (backend or opt):
        raise UsageError("--backend and --opt go with --image cpu or --image gpu")
    require_parent(out)
    require("bentoml", "serve")
    if image:
        require("cyclonedx", "package")
    tool = images.find_backend(backend) if image else ""
    console = Console(as_json)
    home = bentos.home_for(os.environ)
    bento = bentos.build(ModelFiles(models, name), Path(), home)
    content = {"tag": bento.tag, "path": str(bento.path), "labels": bento.labels}
    lines = [f"{bento.tag}  {bento.path}", *(f"  {k:18} {v}" for k, v in bento.labels.items())]
    if image:
        console.notice(f"building the {image} image with {tool}")
        tag = images.build(bento, image, tool, opt or [])
        bill = sbom.write(bento, tag, images.wheels(tag, tool), out)
        content |= {"image": tag, "sbom": str(bill)}
        lines += [f"image {tag}, made of what {bill} lists"]
    console.result(content, "\n".join(lines))
