"""`toolkit predict`: classes of X-ray files, with ONNX Runtime and without torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.console import MODELS, Console, JsonOption, ModelsOption
from toolkit.errors import ImageError

if TYPE_CHECKING:
    from bento.session import Predictor


def predict(
    model: Annotated[
        str, typer.Argument(metavar="NAME|FILE.onnx", help="A model's name, or a pipeline file.")
    ],
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="PNG, JPEG or DICOM X-rays.")
    ],
    models: ModelsOption = MODELS,
    as_json: JsonOption = False,
) -> int:
    """Print class and probabilities of each X-ray; exit 2 if any file was refused."""
    from bento.session import open_file, open_model

    console = Console(as_json)
    if model.endswith(".onnx"):
        predictor, proven = open_file(Path(model))
        if not proven:
            console.notice(f"warning: {model} has no manifest beside it, so no proof was checked")
    else:
        predictor = open_model(models, model)
    results = [_result(predictor, file) for file in files]
    console.result(
        {"model": predictor.name, "model_sha256": predictor.sha256, "results": results},
        "\n".join(_line(each, predictor.meaning.classes) for each in results),
    )
    return 2 if any("error" in each for each in results) else 0


def _result(predictor: "Predictor", file: str) -> dict[str, Any]:
    from toolkit.images import read

    try:
        xray = read(Path(file))
    except ImageError as error:
        return {"file": file, "error": str(error)}
    return {"file": file, **predictor.answer(xray)}


def _line(result: dict[str, Any], classes: tuple[str, ...]) -> str:
    if "error" in result:
        return f"{result['file']}  error: {result['error']}"
    pairs = zip(classes, result["probabilities"], strict=True)
    shares = "  ".join(f"{name} {value:.1%}" for name, value in pairs)
    unsure = "  unsure" if result.get("abstain") else ""
    foreign = "" if result.get("in_scope", True) else "  not like the X-rays it knows"
    return f"{result['file']}  {result['label']}  ({shares}){unsure}{foreign}"
