"""The X-rays that an equivalence check runs over: easy ones, hard ones and real ones."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import DataError
from toolkit.xray.annotations.label_table import LabelTable
from toolkit.xray.bulk import read_files
from toolkit.xray.folders import XrayFile, scan
from toolkit.xray.labels import LabelMap
from toolkit.xray.reading import SIZE
from toolkit.xray.scaling import shaped
from toolkit.xray.synthetic import generate

_GENERATED = 48
_NOISE = 8
_REAL = 64
NATURAL = frozenset({"real", "generated"})


@dataclass(frozen=True)
class Samples:
    """X-rays with the kind of each.

    Attributes:
        pixels: uint8 (N, size, size), or (N, size, size, 3) in colour.
        kinds: N words: `real`, `generated`, `noise`, `black`, `white`, `half` or `one pixel`.
    """

    pixels: NDArray[np.uint8]
    kinds: tuple[str, ...]

    @property
    def natural(self) -> NDArray[np.bool_]:
        """Which samples are X-rays, real or generated: bool (N,)."""
        return np.array([kind in NATURAL for kind in self.kinds])

    def counts(self) -> dict[str, int]:
        """Return how many there are of each kind."""
        return {kind: self.kinds.count(kind) for kind in dict.fromkeys(self.kinds)}


def samples(
    data: Path | None = None,
    labels: LabelMap | None = None,
    table: LabelTable | None = None,
    shape: tuple[int, ...] = (SIZE, SIZE),
    seed: int = 0,
) -> Samples:
    """Return generated X-rays, extreme inputs, and real X-rays of `data` where given.

    Args:
        data: a folder as `toolkit.xray.folders.scan` takes it; up to 64 of its X-rays are spread
            evenly over its files.
        labels: of the folder's classes.
        table: which file is of which class, where a table says so.
        shape: of one X-ray: (size, size), or (size, size, 3) in colour.
        seed: of the generated X-rays and the noise.

    Raises:
        DataError: the folder has no readable X-ray.
    """
    drawn = [shaped(xray.pixels, shape) for xray in generate(_GENERATED, seed=seed)]
    groups = {"generated": np.stack(drawn), **_extremes(shape, seed)}
    if data is not None:
        groups["real"] = _real(scan(data, labels, table), data, shape)
    return Samples(
        pixels=np.concatenate(list(groups.values())),
        kinds=tuple(kind for kind, pixels in groups.items() for _ in pixels),
    )


def _extremes(shape: tuple[int, ...], seed: int) -> dict[str, NDArray[np.uint8]]:
    noise = np.random.default_rng(seed).integers(0, 256, (_NOISE, *shape), dtype=np.uint8)
    side = shape[0]
    half = np.zeros((2, *shape), dtype=np.uint8)
    half[0, side // 2 :] = 255
    half[1, :, side // 2 :] = 255
    one = np.zeros((4, *shape), dtype=np.uint8)
    places = ((0, 0), (side // 2, side // 2), (side - 1, side - 1), (1, side - 1))
    for image, (row, column) in zip(one, places, strict=True):
        image[row, column] = 255
    return {
        "noise": noise,
        "black": np.zeros((1, *shape), dtype=np.uint8),
        "white": np.full((1, *shape), 255, dtype=np.uint8),
        "half": half,
        "one pixel": one,
    }


def _real(files: list[XrayFile], data: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    places = np.linspace(0, len(files) - 1, min(_REAL, len(files))).round().astype(int)
    chosen = read_files([files[place] for place in places], shape=shape)
    readable = [result for _, result in chosen if isinstance(result, np.ndarray)]
    if not readable:
        raise DataError(f"no X-ray in {data} can be read: `toolkit data inspect` names the files")
    return np.stack(readable)
