"""Every format and precision of a model side by side: time, size, and what it costs in accuracy.

One contender is open at a time, in turn over several rounds; the figures are medians.
"""

import gc
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.benchmark.contenders import Classify, Contender, contenders
from export.compare.gate import GateSamples, gate_samples
from export.convert.pipeline import Pipeline
from toolkit.errors import DataError, ImageError, ToolkitError
from toolkit.model.manifest import Manifest
from toolkit.model.metrics import evaluate
from toolkit.xray.annotations.sources import NOTHING, Annotations
from toolkit.xray.folders import scan
from toolkit.xray.pictures import encode
from toolkit.xray.reading import SIZE, decode
from toolkit.xray.scaling import shaped
from toolkit.xray.synthetic import generate

ROUNDS = 5
_BATCH = 32
_FILES = 64
_XRAYS_TIMED = 24
_GENERATED = 96

# The slower and the faster one: format, precision, source and threads.
_RATIOS = {
    "from files, pipeline over reference path, 1 thread": (
        ("reference path", "fp32", "file", 1),
        ("onnx", "fp32", "file", 1),
    ),
    "onnx fp32 over pytorch, 2 threads": (
        ("pytorch", "fp32", "X-ray", 2),
        ("onnx", "fp32", "X-ray", 2),
    ),
    "onnx int8 over fp32, 1 thread": (("onnx", "fp32", "X-ray", 1), ("onnx", "int8", "X-ray", 1)),
}


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
    agreement: float
    accuracy: float | None = None
    kappa: float | None = None


@dataclass(frozen=True)
class Xrays:
    """What is classified.

    Attributes:
        contents: the files to time with, as they lie on disk.
        decoded: the same, uint8 (M, size, size).
        gate: those to judge by, and to calibrate with.
    """

    contents: tuple[bytes, ...]
    decoded: NDArray[np.uint8]
    gate: GateSamples

    def timed(self, source: str, count: int) -> Any:
        """Return `count` of them as a contender takes them."""
        places = [place % len(self.contents) for place in range(count)]
        if source == "file":
            return [self.contents[place] for place in places]
        return self.decoded[places]

    def judged(self, source: str) -> Iterable[Any]:
        """Yield batches of those to judge by."""
        for start in range(0, len(self.gate.pixels), _BATCH):
            pixels = self.gate.pixels[start : start + _BATCH]
            yield [encode(xray) for xray in pixels] if source == "file" else pixels


Judgement = tuple[Contender, NDArray[np.int64]]
"""A contender with the classes that it makes of the X-rays to judge by, (N,)."""


def benchmark(
    pipeline: Pipeline,
    record: Manifest,
    data: Path | None,
    threads: Sequence[int],
    batches: Sequence[int],
    rounds: Iterable[int] = range(ROUNDS),
    said: Annotations = NOTHING,
) -> tuple[list[Row], list[str]]:
    """Return a model's table on X-rays of `data` or drawn ones, and what was left out and why.

    Raises:
        DataError: the folder cannot be used.
    """
    shape = record.network.xray_shape
    xrays = xrays_of(data, record, said) if data else generated_xrays(_GENERATED, shape)
    with TemporaryDirectory() as folder:
        every = contenders(pipeline, record, Path(folder), xrays.gate)
        judgements, left_out = judge(every, xrays)
        if record.preprocessing and not find_spec("cv2"):
            left_out.append("no reference path: it needs OpenCV, pip install 'toolkit[dev]'")
        return measure(judgements, xrays, threads, batches, rounds), left_out


def xrays_of(data: Path, record: Manifest, said: Annotations = NOTHING) -> Xrays:
    """Return X-rays of a folder: some files to time with, its graded ones to judge by.

    Raises:
        DataError: the folder cannot be used.
    """
    files = scan(data, said.labels_for(record.labels, data), said.table)
    size, *channels = record.network.xray_shape[1:]
    step = max(1, len(files) // _FILES)
    contents, decoded = [], []
    for file in files[::step][:_FILES]:
        try:
            content = file.path.read_bytes()
            decoded.append(decode(content, size, *channels))
        except (OSError, ImageError):
            continue
        contents.append(content)
    if not contents:
        raise DataError(f"none of the X-rays in {data} can be read: give other ones with --data")
    judged = gate_samples(data, record, said).held_out()
    return Xrays(tuple(contents), np.stack(decoded), judged)


def generated_xrays(count: int, shape: tuple[int, ...] = (SIZE, SIZE)) -> Xrays:
    """Return X-rays that are drawn, as PNG files; their classes are not asked for."""
    pixels = np.stack([shaped(xray.pixels, shape) for xray in generate(2 * count, seed=0)])
    nothing = np.zeros(0, dtype=np.int64)
    judged = GateSamples(pixels[:count], pixels[count:], nothing, nothing.astype(np.bool_))
    return Xrays(tuple(map(encode, pixels[count:])), pixels[count:], judged)


def judge(every: Iterable[Contender], xrays: Xrays) -> tuple[list[Judgement], list[str]]:
    """Return what each contender makes of the X-rays, and why some cannot run here, or on these."""
    judgements, left_out = [], []
    for contender in every:
        try:
            classify = contender.open(1)
            found = [classify(batch).argmax(axis=1) for batch in xrays.judged(contender.source)]
            if contender.source == "file":
                classify(xrays.contents)
        except ToolkitError as error:
            left_out.append(f"{contender.format} on {contender.provider} is left out: {error}")
            continue
        judgements.append((contender, np.concatenate(found)))
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
        for place, (contender, _) in enumerate(judgements):
            for count in threads if contender.provider == "cpu" else (0,):
                classify = contender.open(count)
                for batch in batches:
                    ms = milliseconds(classify, xrays.timed(contender.source, batch))
                    times.setdefault((count, batch, place), []).append(ms / batch)
    scores = [_scores(classes, judgements[0][1], xrays.gate) for _, classes in judgements]
    rows = []
    for (count, batch, place), found in sorted(times.items()):
        about = asdict(judgements[place][0])
        del about["open"]
        ms = statistics.median(found)
        rows.append(
            Row(
                threads=count,
                batch=batch,
                ms=ms,
                xrays_per_second=1000 / ms,
                **about,
                **scores[place],
            )
        )
    return rows


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Return how many times as fast one contender is as another, where both were measured."""
    times = {
        (row.format, row.precision, row.source, row.threads): row.ms
        for row in rows
        if row.batch == 1 and row.provider == "cpu"
    }
    return {
        name: times[slow] / times[fast]
        for name, (slow, fast) in _RATIOS.items()
        if slow in times and fast in times
    }


def _scores(
    found: NDArray[np.int64], expected: NDArray[np.int64], judged: GateSamples
) -> dict[str, Any]:
    """Return accuracy and kappa, where there are labels, and the agreement with PyTorch."""
    agreement = {"agreement": float((found == expected).mean())}
    if not len(judged.labels):
        return agreement
    classes = 1 + int(max(found.max(), expected.max(), judged.labels.max()))
    result = evaluate(judged.labels, found, classes, resamples=1, ordinal=judged.ordinal)
    kappa = result.quadratic_weighted_kappa
    return {"accuracy": result.accuracy, "kappa": kappa} | agreement


def milliseconds(classify: Classify, content: Any) -> float:
    """Return milliseconds for a batch: the median over some, after a first one."""
    classify(content)
    times = []
    # The garbage collector would otherwise run at any time, and add to whatever is timed then.
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
