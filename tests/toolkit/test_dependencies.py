"""The list of dependencies in the docs is the one in pyproject.toml, and its licences hold."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| ([a-z][^|]*?) \| ([^|]*?) \|", re.MULTILINE)


def told():
    """{package: licence} of the docs; one licence in a row is that of each of its packages."""
    found = {}
    for names, licences in ROW.findall((ROOT / "docs/dependencies.md").read_text())[1:]:
        packages = re.findall(r"[a-z][a-z-]+", re.sub(r"\(.*?\)", "", names))
        each = licences.split(", ")
        found |= zip(packages, each * (len(packages) // len(each)), strict=True)
    return found


LICENCES = told()


def declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return {re.match(r"[a-z-]+", each)[0] for group in groups for each in group}


def test_the_docs_list_every_dependency_and_no_other():
    assert set(LICENCES) == declared()


@pytest.mark.parametrize("package", sorted(LICENCES))
def test_the_licence_in_the_docs_is_the_one_the_package_states(package):
    try:
        about = metadata(package)
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed here")
    stated = " ".join(
        [about.get("License-Expression") or "", (about.get("License") or "")[:60]]
        + (about.get_all("Classifier") or [])
    ).replace(" ", "-")
    word = LICENCES[package].split("-")[0]
    assert {"PSF": "Python-Software-Foundation"}.get(word, word) in stated
