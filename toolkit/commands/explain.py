"""`toolkit explain`: which regions of an X-ray and of its edge map a decision went by."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.console import MODELS, Console, JsonOption, ModelsOption
from toolkit.errors import UsageError
from toolkit.model.files import ModelFiles

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from toolkit.model.manifest import Manifest
    from toolkit.runtime.occlusion import Classify


class Engine(StrEnum):
    """What runs the network."""

    ONNX = "onnx"
    TORCH = "torch"


def explain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A PNG, JPEG or DICOM X-ray.")],
    out: Annotated[Path, typer.Option(metavar="PNG", help="The picture to write.")] = Path(
        "heat.png"
    ),
    label: Annotated[
        str | None, typer.Option("--class", metavar="LABEL", help="Else the one decided on.")
    ] = None,
    engine: Annotated[Engine, typer.Option(help="What runs the network.")] = Engine.ONNX,
    models: ModelsOption = MODELS,
    as_json: JsonOption = False,
) -> None:
    """Draw the X-ray beside its edge map, coloured by how much each region speaks for a class."""
    from toolkit.files import write_bytes
    from toolkit.model import manifest
    from toolkit.runtime.heat_picture import drawn
    from toolkit.runtime.occlusion import occlusion
    from toolkit.xray.reading import read_xray

    files = ModelFiles(models, name)
    record = manifest.load(files.manifest)
    classes = record.labels.classes
    if label is not None and label not in classes:
        raise UsageError(f"{name} has no class {label!r}: choose one of {', '.join(classes)}")
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out} does not end in .png: the picture is a PNG")
    xray = read_xray(file)
    edge_map, classify = (_onnx if engine is Engine.ONNX else _torch)(files, record, xray)
    target = None if label is None else classes.index(label)
    heat = occlusion(classify, xray, edge_map, target)
    shown = classes[heat.target]
    write_bytes(out, drawn(xray, edge_map, heat, f"{name}: what speaks for {shown!r}"))
    strongest = {
        "image": float(abs(heat.image).max()),
        "edges": float(abs(heat.edges).max()),
    }
    Console(as_json).result(
        {"class": heat.target, "label": shown, "strongest_nats": strongest, "picture": str(out)},
        f"{shown}: a patch moves its log-odds by up to {strongest['image']:.2f} in the X-ray, "
        f"{strongest['edges']:.2f} in the edge map\npicture  {out}",
    )


def _onnx(
    files: ModelFiles, record: "Manifest", xray: "NDArray[np.uint8]"
) -> "tuple[NDArray[np.uint8], Classify]":
    from toolkit.runtime.session import open_explainer, open_model

    edge_map = open_model(files.folder, files.name).edge_map(xray[None])[0]
    return edge_map, open_explainer(files, record)


def _torch(
    files: ModelFiles, record: "Manifest", xray: "NDArray[np.uint8]"
) -> "tuple[NDArray[np.uint8], Classify]":
    from toolkit.extras import require

    require("torch", "train")
    import torch

    from export.convert.folding import Explainer
    from export.convert.pipeline import load_pipeline

    pipeline = load_pipeline(files, record)
    explainer = Explainer(pipeline)

    def classify(
        xrays: "NDArray[np.uint8]", edge_maps: "NDArray[np.uint8]"
    ) -> "NDArray[np.float32]":
        with torch.no_grad():
            logits = explainer(torch.from_numpy(xrays), torch.from_numpy(edge_maps))
        result: NDArray[np.float32] = logits.numpy()
        return result

    edge_map: NDArray[np.uint8] = pipeline.preprocessing.edge_map(
        torch.from_numpy(xray[None])
    ).numpy()[0]
    return edge_map, classify
