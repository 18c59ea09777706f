"""A running service compared with PyTorch, from the bytes of a file to the probabilities."""

import json
import secrets
import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from numpy.typing import NDArray

from export.equivalence import Arrays, Origin, Setting, compare
from export.pipeline import Pipeline
from export.samples import Samples, encoded
from toolkit.errors import CheckFailedError, UsageError
from toolkit.images import decode
from toolkit.manifest import Leg, TensorSpec

_TIMEOUT_S = 60


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
        CheckFailedError: the service cannot be reached.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(f"{url} is not an address of a service: give http://HOST:PORT")
    files, all_samples = _files(samples)
    reference = _reference(files, pipeline)
    models: set[str] = set()

    def run(feed: Arrays) -> dict[str, NDArray[Any]]:
        answers = [_post(url, files[index]) for index in feed["file"]]
        models.update(str(each.get("model_sha256")) for each in answers)
        rows = [each.get("probabilities", [np.nan]) for each in answers]
        return {"probabilities": np.array(rows, dtype=np.float32)}

    classes = pipeline.network.classes
    leg = compare(
        {"one file a request": Setting(run, 16)},
        (
            (TensorSpec("file", "uint8", ("batch",)),),
            (TensorSpec("probabilities", "float32", ("batch", classes)),),
        ),
        reference,
        all_samples,
        Origin(url, digest, "the service"),
        [],
    )
    if models != {digest}:
        found = ", ".join(sorted(each[:12] for each in models))
        line = f"the service serves a pipeline with SHA-256 {found}, not {digest[:12]}"
        return replace(leg, failures=(line, *leg.failures), passed=False)
    return leg


def _files(samples: Samples) -> tuple[list[bytes], Samples]:
    """Return each sample as a file, and what PyTorch sees of it."""
    natural = np.flatnonzero(samples.natural)[:3]
    wide = np.pad(samples.pixels[natural[0]], ((0, 0), (40, 40)), mode="reflect")
    small = samples.pixels[natural[1]][::3, ::3]
    files = [encoded(each) for each in samples.pixels]
    files += [encoded(wide), encoded(small)]
    files.append(encoded(samples.pixels[natural[2]], "JPEG"))
    kinds = (*samples.kinds, *(samples.kinds[index] for index in natural))
    return files, Samples(np.stack([decode(each) for each in files]), kinds)


@torch.no_grad()
def _reference(files: list[bytes], pipeline: Pipeline) -> dict[str, NDArray[Any]]:
    probabilities = [pipeline(torch.from_numpy(decode(each)[None]))[1].numpy() for each in files]
    return {
        "file": np.arange(len(files)),
        "probabilities": np.concatenate(probabilities),
    }


def _post(url: str, content: bytes) -> dict[str, Any]:
    boundary = secrets.token_hex(16)
    head = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="xray"; filename="xray"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    request = urllib.request.Request(  # noqa: S310
        f"{url.rstrip('/')}/predict",
        head.encode() + content + f"\r\n--{boundary}--\r\n".encode(),
        {"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        raise CheckFailedError(
            f"{url} refused an X-ray with {error.code} {error.reason}"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckFailedError(f"{url} does not answer as the service does: {error}") from error
    if not isinstance(answer, dict):
        raise CheckFailedError(f"{url} does not answer as the service does: not a JSON object")
    return answer
