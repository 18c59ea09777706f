"""A running service compared with PyTorch, from the bytes of a file to the probabilities."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.compare.measurement import Origin, Setting, compare
from export.compare.samples import Samples
from export.convert.pipeline import Pipeline
from toolkit.client import Client
from toolkit.errors import CheckFailedError, ImageError, ServiceError
from toolkit.model.artifacts import Arrays
from toolkit.model.equivalence import Leg, TensorSpec
from toolkit.xray.limits import MIN_SIDE
from toolkit.xray.pictures import encode
from toolkit.xray.reading import decode
from toolkit.xray.scaling import resize

DEADLINE_S = 60.0


def compare_service(url: str, pipeline: Pipeline, samples: Samples, digest: str) -> Leg:
    """Send every sample as a file to `POST /predict` and compare the probabilities.

    The samples go as PNG; three more are added: one wider than high, one small, one JPEG.

    Args:
        url: of the service, http or https.
        pipeline: what PyTorch computes.
        samples: what to send.
        digest: SHA-256 of the pipeline file that the service should be serving.

    Raises:
        UsageError: not an http address.
        CheckFailedError: the service cannot be reached or refuses an X-ray.
    """
    client = Client(url, deadline_s=DEADLINE_S)
    files, all_samples = _files(samples, pipeline)
    reference = _reference(all_samples, pipeline)
    models: set[str] = set()

    def run(feed: Arrays) -> dict[str, NDArray[Any]]:
        try:
            answers = [client.predict(files[index]) for index in feed["file"]]
        except ImageError as error:
            raise CheckFailedError(f"{url} refused an X-ray: {error}") from error
        except ServiceError as error:
            raise CheckFailedError(str(error)) from error
        models.update(answer.model_sha256 for answer in answers)
        return {"probabilities": np.array([answer.probabilities for answer in answers], np.float32)}

    classes = pipeline.classes
    with client:
        leg = compare(
            {"one file a request": Setting(run, 1)},
            (
                (TensorSpec("file", "uint8", ("batch",)),),
                (TensorSpec("probabilities", "float32", ("batch", classes)),),
            ),
            reference,
            all_samples,
            Origin(url, digest, "the service"),
        )
    if models != {digest}:
        found = ", ".join(sorted(each[:12] for each in models))
        line = f"the service serves a pipeline with SHA-256 {found}, not {digest[:12]}"
        return replace(leg, failures=(line, *leg.failures), passed=False)
    return leg


def _files(samples: Samples, pipeline: Pipeline) -> tuple[list[bytes], Samples]:
    """Return each sample as a file, and what PyTorch sees of it."""
    natural = np.flatnonzero(samples.natural)[:3]
    side, *_ = shape = pipeline.xray_shape()
    margins = [(0, 0), (side // 6, side // 6), *[(0, 0)] * (len(shape) - 2)]
    wide = np.pad(samples.pixels[natural[0]], margins, mode="reflect")
    small = resize(samples.pixels[natural[1]], max(side // 3, min(MIN_SIDE, side)))
    files = [encode(each) for each in samples.pixels]
    files += [encode(wide), encode(small)]
    files.append(encode(samples.pixels[natural[2]], "JPEG"))
    kinds = (*samples.kinds, *(samples.kinds[index] for index in natural))
    decoded = [decode(each, side, *shape[2:]) for each in files]
    return files, Samples(np.stack(decoded), kinds)


@torch.no_grad()
def _reference(samples: Samples, pipeline: Pipeline) -> dict[str, NDArray[Any]]:
    xrays = torch.from_numpy(samples.pixels)
    probabilities = [pipeline(xray)[1].numpy() for xray in torch.split(xrays, 1)]
    return {
        "file": np.arange(len(xrays)),
        "probabilities": np.concatenate(probabilities),
    }
