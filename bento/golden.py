"""Proves an open model by X-rays whose outputs PyTorch gave when it was exported."""

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit import manifest
from toolkit.errors import ModelRefusedError
from toolkit.store import ModelFiles
from toolkit.tolerance import BOUNDS, GATED, within

Arrays = Mapping[str, NDArray[Any]]


def load_golden(files: ModelFiles, record: manifest.Manifest) -> Arrays:
    """Return `xray`, uint8 (N, 224, 224), and PyTorch's outputs by name, (N, ...) each.

    Raises:
        ModelRefusedError: the model has none, or they are not the manifest's.
    """
    path, mend = files.path("golden"), f"run `toolkit export onnx {files.name}`"
    if record.golden is None or not path.is_file():
        raise ModelRefusedError(
            f"{files.name} has no golden X-rays at {path} to prove itself by: {mend}"
        )
    try:
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != record.golden.sha256:
            raise ModelRefusedError(
                f"{path} is not the manifest's: its SHA-256 is {found[:12]}..., the manifest's "
                f"{record.golden.sha256[:12]}...; {mend}"
            )
        with np.load(io.BytesIO(content), allow_pickle=False) as opened:
            return {name: opened[name] for name in opened.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ModelRefusedError(f"{path} cannot be read: {error}; {mend}") from error


def difference(
    golden: Arrays,
    outputs: Iterable[str],
    run: Callable[[list[str], NDArray[np.uint8]], Arrays],
    gated: bool = False,
) -> str:
    """Run the golden X-rays, one by one and together; return what differs, or nothing.

    Args:
        golden: as `load_golden` gives them.
        outputs: those that the model has.
        run: from names of outputs and X-rays to these outputs.
        gated: whether the model is of a lower precision, which keeps the classes only.
    """
    xrays = golden["xray"]
    names = [name for name in BOUNDS if name in golden and name in outputs]
    batches = [xrays[place : place + 1] for place in range(len(xrays))]
    alone = [run(names, batch) for batch in batches]
    together = run(names, xrays)
    for name in names:
        bound = (GATED if gated else BOUNDS)[name]
        allowed = bound.allowed(golden[name], np.ones(len(xrays), dtype=np.bool_))
        for found in (np.concatenate([each[name] for each in alone]), together[name]):
            if found.shape != golden[name].shape or found.dtype != golden[name].dtype:
                return f"{name} is {found.dtype} {found.shape}"
            with np.errstate(invalid="ignore"):
                apart = np.abs(found.astype(np.float64) - golden[name].astype(np.float64))
            furthest = apart.reshape(len(xrays), -1).max(axis=1)
            if not within(furthest, allowed).all():
                return f"{name} differs by {furthest.max():.3g} (allowed: {bound.text})"
            by_class = name in ("logits", "probabilities")
            if by_class and (found.argmax(axis=1) != golden[name].argmax(axis=1)).any():
                return f"a golden X-ray is put in another class by its {name}"
    return ""
