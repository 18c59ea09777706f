"""Every way to run a model that the benchmark sets side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.compare.gate import GateSamples
from export.convert.onnx import OPSET
from export.convert.pipeline import Pipeline
from export.convert.torch_formats import open_pt2, open_torchscript
from export.export import write
from toolkit.errors import ImageError
from toolkit.extras import require
from toolkit.model.files import LOWER, ModelFiles
from toolkit.model.manifest import Manifest
from toolkit.model.records import PreprocessingConstants
from toolkit.runtime.engine import open_engine
from toolkit.runtime.providers import NO_TF32, has_cuda, open_session
from toolkit.train.calibration import softmax
from toolkit.xray.reading import decode

_SHAPE = (224, 224)
_FILTER = np.array([[-1, -1, -1], [0, 0, 0], [1, 1, 1]], dtype=np.float32)

Classify = Callable[[Any], NDArray[np.float32]]
"""X-rays, uint8 (N, size, size), or the bytes of N files, to probabilities, float32 (N, C)."""


@dataclass(frozen=True)
class Contender:
    """One way to run the model.

    Attributes:
        format: `pytorch`, `torchscript`, `pt2`, `onnx` or `reference path`.
        precision: `fp32`, `tf32`, `fp16` or `int8`.
        provider: `cpu` or `cuda`, and how it is used.
        source: what it starts from: `X-ray`, decoded, or `file`.
        bytes: on disk; None of what is no file.
        open: makes it ready, with a number of threads.
    """

    format: str
    precision: str
    provider: str
    source: str
    bytes: int | None
    open: Callable[[int], Classify]


def contenders(
    pipeline: Pipeline, record: Manifest, folder: Path, calibrated: GateSamples
) -> Iterator[Contender]:
    """Yield every way to run a model here, PyTorch's own first; files are written to `folder`.

    The reference path is left out where OpenCV is not installed, CUDA where there is none.
    """
    paths = {}
    for kind in ("network", "pipeline", "torchscript", "pt2", *LOWER):
        paths[kind] = ModelFiles(folder, record.name).path(kind)
        write(kind, pipeline, record, paths[kind], OPSET, calibrated)

    def contender(
        name: str, kind: str, opener: Callable[[int], Classify], **other: str
    ) -> Contender:
        size = paths[kind].stat().st_size
        about = {"precision": "fp32", "provider": "cpu", "source": "X-ray"} | other
        return Contender(name, bytes=size, open=opener, **about)

    yield Contender("pytorch", "fp32", "cpu", "X-ray", None, lambda n: _torch(pipeline, n))
    script, program = paths["torchscript"], paths["pt2"]
    yield contender("torchscript", "torchscript", lambda n: _torch(open_torchscript(script), n))
    yield contender("pt2", "pt2", lambda n: _torch(open_pt2(program), n))
    whole, half, bytewise = paths["pipeline"], paths["fp16"], paths["int8"]
    yield contender("onnx", "pipeline", lambda n: _onnx(whole, n))
    yield contender("onnx", "fp16", lambda n: _onnx(half, n), precision="fp16")
    yield contender("onnx", "int8", lambda n: _onnx(bytewise, n), precision="int8")
    from_files = partial(_from_files, shape=pipeline.xray_shape())
    yield contender("onnx", "pipeline", lambda n: from_files(_onnx(whole, n)), source="file")
    network = paths["network"]
    constants = record.preprocessing
    if constants and find_spec("cv2"):
        reference = partial(_reference, network, constants, record.temperature)
        yield contender("reference path", "network", reference, source="file")
    if not has_cuda():
        return
    # A row of its own for each: the equivalence is shown without TF32.
    tf32 = {"use_tf32": "1"}
    yield contender("onnx", "pipeline", lambda _: _onnx(whole, 0, "cuda"), provider="cuda")
    yield contender(
        "onnx",
        "pipeline",
        lambda _: _onnx(whole, 0, "cuda", tf32),
        precision="tf32",
        provider="cuda",
    )
    yield contender(
        "onnx", "fp16", lambda _: _onnx(half, 0, "cuda"), precision="fp16", provider="cuda"
    )
    yield contender("onnx", "pipeline", lambda _: _in_fixed_sizes(whole), provider="cuda graph")


def _torch(module: Any, threads: int) -> Classify:
    torch.set_num_threads(threads)

    def classify(xrays: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            _, probabilities, *_ = module(torch.from_numpy(xrays))
        found: NDArray[np.float32] = probabilities.numpy()
        return found

    return classify


def _onnx(
    path: Path, threads: int, provider: str = "cpu", cuda: Mapping[str, str] = NO_TF32
) -> Classify:
    session = open_session(path, provider, threads, cuda=cuda)

    def classify(xrays: NDArray[np.uint8]) -> NDArray[np.float32]:
        (probabilities,) = session.run(["probabilities"], {"xray": xrays})
        found: NDArray[np.float32] = probabilities
        return found

    return classify


def _in_fixed_sizes(path: Path) -> Classify:
    engine = open_engine(path, "cuda")
    return lambda xrays: engine.run(["probabilities"], xrays)["probabilities"]


def _from_files(classify: Classify, shape: tuple[int, ...]) -> Classify:
    size, *channels = shape[1:]
    return lambda contents: classify(np.stack([decode(each, size, *channels) for each in contents]))


def _reference(
    path: Path, constants: PreprocessingConstants, temperature: float, threads: int
) -> Classify:
    require("cv2", "dev").setNumThreads(threads)
    session = open_session(path, "cpu", threads)

    def classify(contents: Sequence[bytes]) -> NDArray[np.float32]:
        inputs = [reference_inputs(content, constants) for content in contents]
        image, edges = map(np.stack, zip(*inputs, strict=True))
        (logits,) = session.run(["logits"], {"image": image, "edges": edges})
        return softmax(logits, temperature).astype(np.float32)

    return classify


def reference_inputs(
    content: bytes, constants: PreprocessingConstants
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a network's inputs, image (3, 256, 256) and edges (1, 224, 224), as the study did.

    In floats, with OpenCV.

    Args:
        content: a PNG or JPEG file.
        constants: as the network was trained with.

    Raises:
        ImageError: OpenCV does not read such a file.
        MissingExtraError: OpenCV is not installed.
    """
    cv2: Any = require("cv2", "dev")
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ImageError(
            "not_an_image", "OpenCV reads PNG and JPEG files, and not all of these are"
        )
    if picture.shape[:2] != _SHAPE:
        picture = cv2.resize(picture, _SHAPE, interpolation=cv2.INTER_AREA)
    rgb = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.float32) / 255
    grey = cv2.cvtColor(rgb * 255, cv2.COLOR_RGB2GRAY)
    both = np.zeros_like(grey)
    for kernel in (_FILTER, -_FILTER):
        edges = cv2.filter2D(grey, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        both += cv2.threshold(edges, constants.edge_threshold, 0, cv2.THRESH_TOZERO)[1]
    scaled = np.rint(both * (255 / max(float(both.max()), 1.0)))
    edges = (scaled - np.float32(constants.edge_mean)) / np.float32(constants.edge_std)
    resized = cv2.resize(rgb, (256, 256), interpolation=cv2.INTER_LINEAR)
    mean, std = (
        np.array(channels, np.float32) for channels in (constants.image_mean, constants.image_std)
    )
    image = np.ascontiguousarray(((resized - mean) / std).transpose(2, 0, 1))
    return image, edges[None]
