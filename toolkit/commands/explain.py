"""`toolkit explain`: which regions of an X-ray and of its views a decision went by."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from toolkit.console import MODELS, Console, JsonOption, ModelsOption
from toolkit.errors import UsageError
from toolkit.extras import require
from toolkit.model.files import ModelFiles

# What the study's pictures were always called in the JSON.
_FORMER = {"xray": "image", "edge_map": "edges"}


def explain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A PNG, JPEG or DICOM X-ray.")],
    out: Annotated[Path, typer.Option(metavar="PNG", help="The picture to write.")] = Path(
        "heat.png"
    ),
    label: Annotated[
        str | None, typer.Option("--class", metavar="LABEL", help="Else the one decided on.")
    ] = None,
    engine: Annotated[
        Literal["onnx", "torch"], typer.Option(help="What runs the network.")
    ] = "onnx",
    models: ModelsOption = MODELS,
    as_json: JsonOption = False,
) -> None:
    """Draw the X-ray beside its views, coloured by how much each region speaks for a class."""
    from toolkit.files import require_parent, write_bytes
    from toolkit.model import manifest
    from toolkit.runtime.heat_picture import draw, spoken
    from toolkit.runtime.occlusion import occlusion
    from toolkit.runtime.session import open_explainer, open_model
    from toolkit.xray.reading import read_xray

    files = ModelFiles(models, name)
    record = manifest.load(files.manifest)
    classes = record.labels.classes
    if label is not None and label not in classes:
        raise UsageError(f"{name} has no class {label!r}: choose one of {', '.join(classes)}")
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out} does not end in .png: the picture is a PNG")
    require_parent(out)
    size, *channels = record.network.xray_shape[1:]
    xray = read_xray(file, size, *channels)
    if engine == "onnx":
        views = open_model(models, name).views(xray)
        model = open_explainer(files, record)
    else:
        require("torch", "train")
        from export.convert.pipeline import load_pipeline, torch_explainer

        views, model = torch_explainer(load_pipeline(files, record), xray)
    target = None if label is None else classes.index(label)
    pictures = {"xray": xray} | views
    heat = occlusion(model, pictures, target)
    explained = classes[heat.target]
    write_bytes(out, draw(pictures, heat, f"{name}: what speaks for {explained!r}"))
    strongest = {each: float(abs(falls).max()) for each, falls in heat.falls.items()}
    told = ", ".join(f"{value:.2f} in the {spoken(each)}" for each, value in strongest.items())
    Console(as_json).result(
        {
            "class": heat.target,
            "label": explained,
            "strongest_nats": {_FORMER.get(each, each): value for each, value in strongest.items()},
            "picture": str(out),
        },
        f"{explained}: a patch moves its log-odds by up to {told}\npicture  {out}",
    )
