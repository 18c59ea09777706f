import os
import shutil
import subprocess
import sys

import pytest

from bento.worker.settings import settings
from toolkit.errors import UsageError

WRONG = {
    "TOOLKIT_WORKERS": ["nonsense", "0", "²", "1025", ""],
    "TOOLKIT_PROVIDER": ["tpu", "", "CUDA"],
    "TOOLKIT_PRECISION": ["fp64", ""],
    "TOOLKIT_TOKEN": ["", " ", "abc\n", "one two", "a\tb", "a\x7f", "schlüssel", "\udcfc", "\x00"],
    "TOOLKIT_MODEL": ["a/b", "../x", ""],
    "TOOLKIT_MODELS": [""],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_setting_that_cannot_be_used_is_refused_in_one_line(name, value):
    with pytest.raises(UsageError) as refused:
        settings({name: value})
    assert "\n" not in str(refused.value)
    assert name != "TOOLKIT_TOKEN" or not value.strip() or value not in str(refused.value)


def test_token_of_any_printable_ascii_is_taken_as_it_is():
    every = "".join(chr(each) for each in range(33, 127))
    assert settings({"TOOLKIT_TOKEN": every}).token == every.encode()


def test_nothing_set_is_the_shipped_model_on_whatever_is_there():
    found = settings({})
    assert (found.files.name, found.provider, found.precision) == ("model_saved", "auto", "fp32")
    assert found.token is None and found.workers >= 1 and found.kind == "pipeline"


def test_nothing_set_is_the_only_model_of_a_bento_of_another_name(tmp_path):
    for name in ("knee.v2.json", "knee.v2.equivalence.json", "knee.v2.pipeline.onnx"):
        (tmp_path / name).write_bytes(b"")
    assert settings({"TOOLKIT_MODELS": str(tmp_path)}).files.name == "knee.v2"
    (tmp_path / "knee.v2.previous.json").write_bytes(b"")
    assert settings({"TOOLKIT_MODELS": str(tmp_path)}).files.name == "knee.v2"
    (tmp_path / "hip.json").write_bytes(b"")
    assert settings({"TOOLKIT_MODELS": str(tmp_path)}).files.name == "model_saved"


@pytest.mark.skipif(not shutil.which("taskset"), reason="no taskset")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_service_has_a_worker_for_each_core_that_it_may_use():
    one = str(min(os.sched_getaffinity(0)))
    code = "from bento.worker.settings import settings; print(settings({}).workers)"
    command = ["taskset", "-c", one, sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
