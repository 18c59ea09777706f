"""The real service with a lower precision."""

import httpx
import numpy as np
import pytest

from toolkit.runtime.session import open_model
from toolkit.xray.reading import decode


@pytest.mark.full
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precision_is_proven_and_answers_nearly_as_the_full_one(
    copied, serving, encoded, xrays, tmp_path, precision
):
    from export.export import Options, export
    from toolkit.commands import data as generation

    generation.generate(tmp_path / "graded", count=160, seed=3)
    verdict = export("onnx", copied, copied, Options(data=tmp_path / "graded", precision=precision))
    assert verdict.passed, verdict.legs[precision].failures
    png = encoded(xrays[2])
    full = open_model(copied.folder, copied.name, "cpu").answer(decode(png))
    with serving(copied, tmp_path, TOOLKIT_WORKERS="1", TOOLKIT_PRECISION=precision) as (_, url, _):
        about = httpx.get(f"{url}/info").json()
        assert about["precision"] == precision and about["equivalence"]["passed"]
        answer = httpx.post(f"{url}/predict", files={"xray": png}).json()
    assert answer["model_sha256"] == about["model_sha256"]
    assert answer["probabilities"] != list(full.probabilities), "it is the full one"
    np.testing.assert_allclose(answer["probabilities"], list(full.probabilities), atol=0.05)
