"""`toolkit explain`: which regions of an X-ray and of its edge map a decision went by."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from toolkit.console import MODELS, Console, JsonOption, ModelsOption
from toolkit.errors import UsageError
from toolkit.extras import require
from toolkit.model.files import ModelFiles


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
    """Draw the X-ray beside its edge map, coloured by how much each region speaks for a class."""
    from toolkit.files import require_parent, write_bytes
    from toolkit.model import manifest
    from toolkit.runtime.heat_picture import draw
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
    xray = read_xray(file)
    if engine == "onnx":
        edge_map = open_model(models, name).edge_map(xray[None])[0]
        model = open_explainer(files, record)
    else:
        require("torch", "train")
        from export.convert.pipeline import load_pipeline, torch_explainer

        edge_map, model = torch_explainer(load_pipeline(files, record), xray)
    target = None if label is None else classes.index(label)
    heat = occlusion(model, xray, edge_map, target)
    explained = classes[heat.target]
    write_bytes(out, draw(xray, edge_map, heat, f"{name}: what speaks for {explained!r}"))
    strongest = {
        "image": float(abs(heat.image).max()),
        "edges": float(abs(heat.edges).max()),
    }
    Console(as_json).result(
        {
            "class": heat.target,
            "label": explained,
            "strongest_nats": strongest,
            "picture": str(out),
        },
        f"{explained}: a patch moves its log-odds by up to {strongest['image']:.2f} in the X-ray, "
        f"{strongest['edges']:.2f} in the edge map\npicture  {out}",
    )
