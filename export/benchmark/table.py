"""Every format and precision of a model side by side: time, size, and what it costs in accuracy.

One contender is open at a time, in turn over several rounds; the figures are medians.
"""

import gc
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.benchmark.contenders import Classify, Contender
from export.compare.graded import Graded, graded
from toolkit.errors import DataError, ImageError, ToolkitError
from toolkit.model.manifest import Manifest
from toolkit.model.metrics import evaluate
from toolkit.xray.folders import scan
from toolkit.xray.pictures import encode
from toolkit.xray.reading import decode
from toolkit.xray.synthetic import generate

ROUNDS = 5
_BATCH = 32
_FILES = 64
_XRAYS_TIMED = 24


@dataclass(frozen=True)
class Row:
    """A contender with a number of threads and a batch size.

    Attributes:
        format: as its contender's, as are precision, provider, source and bytes.
        threads: that compute; 0 on CUDA.
        batch: X-rays at once.
        ms: for one X-ray, in milliseconds: the median over the rounds.
        xrays_per_second: likewise.
        accuracy: on the graded X-rays, 0 to 1; None without any.
        kappa: quadratic weighted; None without any, or undefined.
        agreement: share of X-rays with PyTorch's class, 0 to 1.
    """

    format: str
    precision: str
    provider: str
    source: str
    threads: int
    batch: int
    ms: float
    xrays_per_second: float
    bytes: int | None
    accuracy: float | None
    kappa: float | None
    agreement: float


@dataclass(frozen=True)
class Xrays:
    """What is classified.

    Attributes:
        contents: the files to time with, as they lie on disk.
        decoded: the same, uint8 (M, 224, 224).
        graded: those to judge by, and to calibrate with.
    """

    contents: tuple[bytes, ...]
    decoded: NDArray[np.uint8]
    graded: Graded

    def timed(self, source: str, count: int) -> Any:
        """Return `count` of them as a contender takes them."""
        places = [place % len(self.contents) for place in range(count)]
        if source == "file":
            return [self.contents[place] for place in places]
        return self.decoded[places]

    def judged(self, source: str) -> Iterable[Any]:
        """Yield batches of those to judge by."""
        for start in range(0, len(self.graded.pixels), _BATCH):
            pixels = self.graded.pixels[start : start + _BATCH]
            yield [encode(each) for each in pixels] if source == "file" else pixels


@dataclass(frozen=True)
class Judgement:
    """What a contender makes of the X-rays to judge by: classes, int64 (N,)."""

    contender: Contender
    classes: NDArray[np.int64]


def xrays_of(data: Path, record: Manifest) -> Xrays:
    """Return X-rays of a folder: some files to time with, its graded ones to judge by.

    Raises:
        DataError: the folder cannot be used.
    """
    files = scan(data)
    step = max(1, len(files) // _FILES)
    contents, decoded = [], []
    for file in files[::step][:_FILES]:
        try:
            content = file.path.read_bytes()
            decoded.append(decode(content))
        except (OSError, ImageError):
            continue
        contents.append(content)
    if not contents:
        raise DataError(f"none of the X-rays in {data} can be read: give other ones with --data")
    return Xrays(tuple(contents), np.stack(decoded), graded(data, record))


def generated_xrays(count: int) -> Xrays:
    """Return X-rays that are drawn, as PNG files; their classes are not asked for."""
    pixels = np.stack([xray.pixels for xray in generate(2 * count, seed=0)])
    judged = Graded(pixels[:count], pixels[count:], np.zeros(0, dtype=np.int64))
    return Xrays(tuple(map(encode, pixels[count:])), pixels[count:], judged)


def judge(each: Iterable[Contender], xrays: Xrays) -> tuple[list[Judgement], list[str]]:
    """Return what each contender makes of the X-rays, and why some cannot be opened here."""
    judgements, left_out = [], []
    for contender in each:
        try:
            classify = contender.open(1)
            found = [classify(batch).argmax(axis=1) for batch in xrays.judged(contender.source)]
        except ToolkitError as error:
            left_out.append(f"{contender.format} on {contender.provider} is left out: {error}")
            continue
        judgements.append(Judgement(contender, np.concatenate(found)))
    return judgements, left_out


def measure(
    judgements: Sequence[Judgement],
    xrays: Xrays,
    threads: Sequence[int],
    batches: Sequence[int],
    rounds: Iterable[int] = range(ROUNDS),
) -> list[Row]:
    """Time contenders, the first of which is PyTorch, in turn over some rounds."""
    times: dict[tuple[int, int, int], list[float]] = {}
    for _ in rounds:
        for place, judgement in enumerate(judgements):
            for count in _counts(judgement, threads):
                classify = judgement.contender.open(count)
                for batch in batches:
                    content = xrays.timed(judgement.contender.source, batch)
                    times.setdefault((count, batch, place), []).append(_ms(classify, content))
    return [
        _row(judgements[place], judgements[0], count, batch, each, xrays.graded)
        for (count, batch, place), each in sorted(times.items())
    ]


def _counts(judgement: Judgement, threads: Sequence[int]) -> Sequence[int]:
    return threads if judgement.contender.provider == "cpu" else (0,)


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Return how many times as fast one contender is as another, where both were measured."""
    times = {
        (row.format, row.precision, row.source, row.threads): row.ms
        for row in rows
        if row.batch == 1 and row.provider == "cpu"
    }
    asked = {
        "from files, pipeline over reference path, 1 thread": (
            ("reference path", "fp32", "file", 1),
            ("onnx", "fp32", "file", 1),
        ),
        "onnx fp32 over pytorch, 2 threads": (
            ("pytorch", "fp32", "X-ray", 2),
            ("onnx", "fp32", "X-ray", 2),
        ),
        "onnx int8 over fp32, 1 thread": (
            ("onnx", "fp32", "X-ray", 1),
            ("onnx", "int8", "X-ray", 1),
        ),
    }
    return {
        name: times[slow] / times[fast]
        for name, (slow, fast) in asked.items()
        if slow in times and fast in times
    }


def _row(
    judgement: Judgement,
    pytorch: Judgement,
    threads: int,
    batch: int,
    times: Sequence[float],
    judged: Graded,
) -> Row:
    contender, found, expected = judgement.contender, judgement.classes, pytorch.classes
    result = None
    if len(judged.labels):
        classes = 1 + int(max(found.max(), expected.max(), judged.labels.max()))
        result = evaluate(judged.labels, found, classes, resamples=1)
    ms = statistics.median(times) / batch
    return Row(
        format=contender.format,
        precision=contender.precision,
        provider=contender.provider,
        source=contender.source,
        threads=threads,
        batch=batch,
        ms=ms,
        xrays_per_second=1000 / ms,
        bytes=contender.bytes,
        accuracy=result.accuracy if result else None,
        kappa=result.quadratic_weighted_kappa if result else None,
        agreement=float((found == expected).mean()),
    )


def _ms(classify: Classify, content: Any) -> float:
    """Return milliseconds for a batch: the median over some, after a first one."""
    classify(content)
    times = []
    # Left to its own time, the collector would take it from whoever runs then.
    gc.collect()
    gc.disable()
    try:
        for _ in range(max(3, _XRAYS_TIMED // len(content))):
            start = time.perf_counter()
            classify(content)
            times.append(time.perf_counter() - start)
    finally:
        gc.enable()
    return statistics.median(times) * 1000
