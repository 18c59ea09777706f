"""The public face: light to import, whole, and each public class shows how it is used."""

import doctest
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import toolkit
from toolkit.model.files import ModelFiles
from toolkit.xray.synthetic import generate

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = {name: getattr(toolkit, name) for name in toolkit.__all__ if name != "__version__"}
CLASSES = [each for each in PUBLIC.values() if inspect.isclass(each)]


def examples(of, address="localhost:3000"):
    text = inspect.getdoc(of).replace("localhost:3000", address)
    return doctest.DocTestParser().get_doctest(text, {}, of.__name__, None, None)


def test_importing_the_toolkit_imports_nothing_else_of_it():
    script = "import toolkit, sys; print([each for each in sys.modules if 'toolkit.' in each])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_the_public_face_has_each_of_its_names_and_no_other():
    assert set(dir(toolkit)) == {*PUBLIC, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        toolkit.nothing  # noqa: B018


@pytest.fixture(scope="module")
def place(tmp_path_factory, serving):
    """The address of a service, in a folder with the shipped model and an X-ray, knee.png."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "saved_models").symlink_to(ROOT / "saved_models")
    (xray,) = generate(1, seed=1, grades=(4,))
    Image.fromarray(xray.pixels).save(folder / "knee.png")
    files = ModelFiles(ROOT / "saved_models", "model_saved")
    former = Path.cwd()
    os.chdir(folder)
    with serving(files, folder, TOOLKIT_WORKERS="1") as (_, url, _):
        yield url.removeprefix("http://")
    os.chdir(former)


@pytest.mark.parametrize("public", CLASSES, ids=lambda each: each.__name__)
def test_a_public_class_has_an_example_that_runs_as_it_stands(place, public):
    found = examples(public, place)
    assert len(found.examples) > 2
    assert doctest.DocTestRunner().run(found).failed == 0
