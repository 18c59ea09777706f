"""`toolkit list`: the models of a folder."""

from pathlib import Path
from typing import Any

from toolkit.console import MODELS, Console, JsonOption, ModelsOption
from toolkit.errors import ToolkitError, UsageError
from toolkit.model.files import PIPELINES, ModelFiles, names_in

_PRECISIONS = {kind: "fp32" if kind == "pipeline" else kind for kind in PIPELINES}


def list_(models: ModelsOption = MODELS, as_json: JsonOption = False) -> None:
    """List the models in a folder: how trained, whether proven, in what precisions, how large."""
    if not models.is_dir():
        raise UsageError(f"no folder {models}: name another with --models")
    entries = [_entry(models, name) for name in names_in(models)]
    Console(as_json).result({"folder": str(models), "models": entries}, _text(models, entries))


def _entry(folder: Path, name: str) -> dict[str, Any]:
    from toolkit.model import manifest
    from toolkit.model.artifacts import check_equivalence

    files = ModelFiles(folder, name)
    size = sum(path.stat().st_size for path in files.present().values())
    try:
        record = manifest.load(files.manifest)
    except ToolkitError as error:
        return {"name": name, "bytes": size, "error": str(error)}
    precisions = []
    for kind, precision in _PRECISIONS.items():
        try:
            check_equivalence(files, record, kind)
        except ToolkitError:
            continue
        precisions.append(precision)
    return {
        "name": name,
        "trained": {
            "preset": record.training.recipe.get("preset"),
            "epochs": record.training.epochs,
        },
        "proven": "fp32" in precisions,
        "precisions": precisions,
        "bytes": size,
    }


def _text(folder: Path, entries: list[dict[str, Any]]) -> str:
    if not entries:
        return f"no models in {folder}"
    width = max(len("name"), *(len(entry["name"]) for entry in entries))
    lines = [f"{'name':{width}}  {'trained':24}{'proven':8}{'precisions':18}{'MiB':>6}"]
    for entry in entries:
        size = f"{entry['bytes'] / 2**20:6.1f}"
        if "error" in entry:
            lines.append(f"{entry['name']:{width}}  cannot be read: {entry['error']}")
            continue
        trained = entry["trained"]
        said = [trained["preset"] or "unknown"]
        if trained["epochs"] is not None:
            said.append(f"{trained['epochs']} epochs")
        proven, precisions = "yes" if entry["proven"] else "no", " ".join(entry["precisions"])
        lines.append(
            f"{entry['name']:{width}}  {', '.join(said):24}{proven:8}{precisions or '-':18}{size}"
        )
    return "\n".join(lines)
