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
    sizes: Iterable[int] = (),
) -> str:
    """Run the golden X-rays, one by one, together and in every size; return what differs.

    Args:
        golden: as `toolkit.model.artifacts.load_golden` gives them.
        outputs: those that the model has.
        run: from names of outputs and X-rays to these outputs.
        gated: whether the model is of a lower precision, which keeps the classes only.
        sizes: of the batches that the model is run in, where those are fixed.

    Returns:
        A line; an empty one where nothing differs.
    """
    xrays = golden["xray"]
    names = [name for name in outputs if name in golden]
    alone = [run(names, xrays[place : place + 1]) for place in range(len(xrays))]
    one_by_one = {name: np.concatenate([each[name] for each in alone]) for name in names}
    said = _difference(golden, one_by_one, len(xrays), gated)
    for size in (len(xrays), *sizes):
        repeated = np.resize(xrays, (size, *xrays.shape[1:]))
        said = said or _difference(golden, run(names, repeated), size, gated)
    return said


def _difference(golden: Arrays, outputs: Arrays, size: int, gated: bool) -> str:
    """Say what differs in the outputs of a batch of that size, which repeats the golden X-rays."""
    for name, found in outputs.items():
        known = np.resize(golden[name], (size, *golden[name].shape[1:]))
        bound = bound_of(name, gated)
        if found.shape != known.shape or found.dtype != known.dtype:
            return f"{name} is {found.dtype} {found.shape}"
        allowed = bound.allowed(known, np.ones(size, dtype=np.bool_))
        with np.errstate(invalid="ignore"):
            apart = np.abs(found.astype(np.float64) - known.astype(np.float64))
        furthest = apart.reshape(size, -1).max(axis=1)
        if not within(furthest, allowed).all():
            return f"{name} differs by {furthest.max():.3g} (allowed: {bound.text})"
        by_class = name in ("logits", "probabilities")
        if by_class and (found.argmax(axis=1) != known.argmax(axis=1)).any():
            return f"a golden X-ray is put in another class by its {name}"
    return ""
