from pathlib import Path

import pytest

from toolkit.errors import UsageError
from toolkit.model.files import SUFFIXES, ModelFiles, checked_name, located


@pytest.mark.parametrize("name", ["model_saved", "knee-2", "S28.v1", "_x", "a", "a" * 100])
def test_a_plain_name_is_taken(name):
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a/b",
        "/etc/passwd",
        "a\\b",
        "..",
        "../a",
        "a..b",
        ".hidden",
        ".",
        "a b",
        "a\n",
        "é",
        "a" * 101,
        "a\x00b",
        "$(x)",
        "a:b",
    ],
)
def test_a_name_that_could_leave_the_folder_or_hide_is_refused(name):
    with pytest.raises(UsageError, match="cannot name a model") as caught:
        checked_name(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "ending",
    [
        "pipeline",
        "resume",
        "equivalence",
        "torchscript",
        "int8",
        "fp16",
        "json",
        "pt",
        "onnx",
        "html",
        "pipeline.onnx",
    ],
)
def test_a_name_that_ends_like_an_artifact_is_refused(ending):
    with pytest.raises(UsageError, match="cannot name a model"):
        checked_name(f"model.{ending}")
    assert checked_name(f"{ending.replace('.', '_')}") == ending.replace(".", "_")


def test_no_two_models_share_a_file():
    every = [
        path
        for name in ("a", "a.previous", "b", "a.b", "a_b")
        for files in [ModelFiles(Path("m"), name)]
        for path in [*map(files.path, SUFFIXES), files.resume]
    ]
    assert len(set(every)) == len(every)


def test_the_files_are_named_as_documented(tmp_path):
    files = ModelFiles(tmp_path, "knee")
    assert files.manifest == tmp_path / "knee.json"
    assert files.checkpoint == tmp_path / "knee.pt"
    assert files.path("network") == tmp_path / "knee.onnx"
    assert files.path("pipeline") == tmp_path / "knee.pipeline.onnx"
    assert files.previous.checkpoint == tmp_path / "knee.previous.pt"


def test_every_name_has_a_previous_one():
    longest = ModelFiles(Path("m"), "a" * 100)
    assert longest.previous.previous.name == "a" * 100 + ".previous.previous"


def test_a_model_is_found_by_its_name():
    assert located("knee", Path("models")) == ModelFiles(Path("models"), "knee")


@pytest.mark.parametrize("file", ["knee.json", "knee.pt", "knee.onnx", "knee.pipeline.onnx"])
@pytest.mark.parametrize("folder", ["", "elsewhere/", "/abs/", "../up/"])
def test_a_model_is_found_by_the_path_of_any_of_its_files(folder, file):
    found = located(folder + file, Path("models"))
    assert found == ModelFiles(Path(folder + file).parent, "knee")


@pytest.mark.parametrize("given", ["a/b", "../knee", "", ".json", "x/.pt", "knee.resume.pt"])
def test_what_is_neither_a_name_nor_a_models_file_is_refused(given):
    with pytest.raises(UsageError):
        located(given, Path("models"))
