"""Proves an open model by X-rays whose outputs PyTorch gave when it was exported."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from toolkit.model.artifacts import Arrays
from toolkit.model.tolerance import bound_of, within


def difference(
    golden: Arrays,
    outputs: Iterable[str],
    run: Callable[[list[str], NDArray[np.uint8]], Arrays],
    gated: bool = False,
) -> str:
    """Run the golden X-rays, one by one and together; return what differs, or nothing.

    Args:
        golden: as `toolkit.model.artifacts.load_golden` gives them.
        outputs: those that the model has.
        run: from names of outputs and X-rays to these outputs.
        gated: whether the model is of a lower precision, which keeps the classes only.
    """
    xrays = golden["xray"]
    names = [name for name in outputs if name in golden]
    batches = [xrays[place : place + 1] for place in range(len(xrays))]
    alone = [run(names, batch) for batch in batches]
    together = run(names, xrays)
    for name in names:
        bound = bound_of(name, gated)
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
