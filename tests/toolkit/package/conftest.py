"""The shipped model under another name, and its bento."""

import py_compile
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from toolkit.model.files import ModelFiles
from toolkit.package import bento as bentos

ROOT = Path(__file__).resolve().parents[3]


def _renamed(folder):
    shipped = ModelFiles(ROOT / "saved_models", "model_saved")
    files = ModelFiles(folder, "knee.v2")
    folder.mkdir()
    for kind in ("pipeline", "explainer", "golden", "checkpoint"):
        shutil.copy(shipped.path(kind), files.path(kind))
    text = shipped.manifest.read_text().replace('"model_saved', '"knee.v2')
    files.manifest.write_text(text)
    return files


@pytest.fixture
def model(tmp_path):
    """The shipped model as knee.v2, in a folder of its own, with its proof."""
    return _renamed(tmp_path / "models")


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """What a bento is built from, with files beside it that the interpreter compiled."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "toolkit", folder / "toolkit")
    shutil.copytree(ROOT / "bento", folder / "bento")
    shutil.copy(ROOT / bentos.BENTOFILE, folder)
    page = folder / "bento/page/__init__.py"
    py_compile.compile(page)
    py_compile.compile(page, page.with_suffix(".pyc"))
    return folder


@pytest.fixture(scope="session")
def twice(checkout, tmp_path_factory):
    """The bento of one model, built twice at the same time, in two homes."""
    folder = tmp_path_factory.mktemp("twice")
    files = _renamed(folder / "models")
    with ThreadPoolExecutor() as pool:
        homes = [folder / "one", folder / "two"]
        return list(pool.map(lambda home: bentos.build(files, checkout, home), homes))


@pytest.fixture
def bento(twice):
    return twice[0]
