"""Opening a model: only what carries its proof, without torch, and the same for any batch."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from toolkit.errors import ModelRefusedError, ProviderError, UsageError
from toolkit.files import sha256
from toolkit.runtime.providers import open_session
from toolkit.runtime.session import open_file, open_model


def test_proven_model_opens_with_its_classes_and_hash(served, xrays):
    predictor = open_model(served.folder, served.name)
    assert predictor.name == "small"
    assert predictor.meaning.classes == ("none", "minimal", "moderate", "severe")
    assert predictor.sha256 == sha256(served.path("pipeline"))
    result = predictor.predict(xrays)
    assert result.logits.shape == result.probabilities.shape == (8, 4)
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, rtol=1e-5)
    assert result.probabilities.std(axis=0).max() > 0.01, "the model should tell X-rays apart"


def test_batch_answers_as_its_xrays_do_alone(served, xrays):
    predictor = open_model(served.folder, served.name, threads=1)
    together = predictor.predict(xrays).probabilities
    alone = np.concatenate([predictor.predict(each[None]).probabilities for each in xrays])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_model_without_a_valid_proof_is_refused(copied, fault):
    open_model(copied.folder, copied.name)
    spoil, error, message = fault
    spoil(copied)
    with pytest.raises(error, match=message) as refused:
        open_model(copied.folder, copied.name)
    assert "\n" not in str(refused.value)
    if copied.path("pipeline").exists() and copied.manifest.exists():
        with pytest.raises(error, match=message):
            open_file(copied.path("pipeline"))


@pytest.mark.parametrize("name", ["../small", "a/b", "", ".", ".hidden", "small.pipeline"])
def test_name_that_is_no_name_is_refused(served, name):
    with pytest.raises(UsageError, match="cannot name a model"):
        open_model(served.folder, name)


def test_pipeline_file_alone_opens_by_its_own_metadata_as_unproven(served, tmp_path, xrays):
    alone = tmp_path / "elsewhere.onnx"
    shutil.copy(served.path("pipeline"), alone)
    predictor, proven = open_file(alone)
    assert not proven
    assert predictor.meaning.classes == ("none", "minimal", "moderate", "severe")
    expected, proven = open_file(served.path("pipeline"))
    assert proven
    np.testing.assert_array_equal(
        predictor.predict(xrays).probabilities, expected.predict(xrays).probabilities
    )


def test_network_file_and_no_file_are_refused_as_pipelines(served, tmp_path):
    with pytest.raises(ModelRefusedError, match="does not take X-rays"):
        open_file(served.path("network"))
    with pytest.raises(ModelRefusedError, match="no model file at"):
        open_file(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(ModelRefusedError, match="cannot open"):
        open_file(tmp_path / "text.onnx")


def test_unknown_provider_and_missing_cuda_are_refused(served):
    import onnxruntime

    with pytest.raises(ProviderError, match="choose auto, cpu or cuda"):
        open_session(served.path("pipeline"), "tpu")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ProviderError, match="CUDA was asked for"):
            open_session(served.path("pipeline"), "cuda")


def test_serving_imports_neither_torch_nor_onnx(served):
    script = (
        "import sys; from pathlib import Path; import bento.http.app, bento.http.upload\n"
        "from toolkit.runtime.session import open_model\n"
        f"open_model(Path({str(served.folder)!r}), 'small')\n"
        "heavy = {'torch', 'onnx', 'onnxscript', 'optuna', 'tensorboard', 'cv2', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_a_path_of_lower_precision_is_opened_with_its_own_proof(copied):
    with pytest.raises(ModelRefusedError, match="has no exported fp16"):
        open_file(shutil.copy(copied.path("pipeline"), copied.path("fp16")))
