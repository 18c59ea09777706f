"""A few generated X-rays with PyTorch's outputs, for a service to prove itself by as it starts."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.compare.equivalence import Arrays
from export.compare.samples import Samples
from toolkit.files import sha256, write_bytes
from toolkit.model.equivalence import GoldenRecord

_COUNT = 4
_OUTPUTS = ("logits", "probabilities", "edge_map", "novelty")


def save_golden(path: Path, samples: Samples, arrays: Arrays) -> GoldenRecord:
    """Write a .golden.npz: `xray`, and the outputs that the pipeline has.

    Args:
        path: of the file.
        samples: to choose from; only generated ones are taken.
        arrays: what PyTorch makes of them, as `export.compare.equivalence.references` gives it.

    Raises:
        UsageError: the folder cannot be written.
    """
    generated = np.flatnonzero([kind == "generated" for kind in samples.kinds])
    places = generated[_clearest(arrays["logits"][generated])]
    outputs = {name: arrays[name][places] for name in _OUTPUTS if name in arrays}
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, xray=samples.pixels[places], **outputs)
    write_bytes(path, stream.getvalue())
    return GoldenRecord(sha256(path), len(places))


def _clearest(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the places of the clearest decisions, of as many classes as there are.

    A lower precision may move a close decision; of these it must not.
    """
    ordered = np.sort(logits.astype(np.float64), axis=1)
    by_margin = np.argsort(-(ordered[:, -1] - ordered[:, -2]), kind="stable")
    classes = logits.argmax(axis=1)[by_margin]
    firsts = np.unique(classes, return_index=True)[1]
    rest = np.setdiff1d(np.arange(len(by_margin)), firsts)
    result: NDArray[np.intp] = by_margin[np.concatenate([firsts, rest])[:_COUNT]]
    return result
