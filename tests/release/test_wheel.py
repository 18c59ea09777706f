"""The wheel holds every file of the packages that run, and nothing else."""

import re
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bento", "export", "toolkit")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def content(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def about(content, name):
    (path,) = [each for each in content if each.endswith(f".dist-info/{name}")]
    return content[path].decode()


def runs(path):
    """Whether a file is of what runs, not of what images are built from."""
    is_code = path.name.endswith((".py", ".py.txt", "py.typed"))
    return is_code or path.parent.name == "page"


def test_the_wheel_holds_every_file_that_runs_as_it_is_and_no_other(content):
    held = {name: data for name, data in content.items() if ".dist-info/" not in name}
    source = {
        str(path.relative_to(ROOT)): path.read_bytes()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and runs(path)
    }
    assert set(held) == set(source)
    assert held == source
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(held)
    assert any(name.startswith("bento/page/") and name.endswith(".js") for name in held)


def test_the_wheel_names_its_version_its_extras_and_its_licence(content):
    stated = Parser().parsestr(about(content, "METADATA"))
    assert stated["Name"] == PROJECT["name"] and stated["Version"] == PROJECT["version"]
    assert stated["Requires-Python"] == PROJECT["requires-python"]
    assert set(stated.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert stated["License-Expression"] == PROJECT["license"]
    assert "Apache License" in about(content, "licenses/LICENSE")


def test_the_two_builds_of_onnxruntime_are_in_an_extra_each_and_cuda_comes_with_its_own(content):
    # The GPU's is not installed here: it takes gigabytes.
    stated = Parser().parsestr(about(content, "METADATA")).get_all("Requires-Dist")
    builds = sorted(each for each in stated if each.startswith("onnxruntime"))
    assert [re.sub(r"[<>=].*;", ";", each) for each in builds] == [
        'onnxruntime-gpu[cuda,cudnn]; extra == "gpu"',
        'onnxruntime; extra == "cpu"',
    ]


def test_the_wheel_brings_the_command_and_the_folder_for_bentoml(content):
    points = about(content, "entry_points.txt")
    assert "toolkit = toolkit.cli:main" in points
    assert "toolkit = bento.home:command" in points


def test_the_wheel_runs_on_any_machine(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
