"""What the tests of this folder share: faults to plant, and files that take long to make."""

import shutil
import warnings
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export import export
from export.compare import artifact
from export.compare.artifact import compare_file
from export.convert.onnx import specs_of
from toolkit.commands import data as generation
from toolkit.files import replacing
from toolkit.model.files import ModelFiles


def edit(path, function):
    """Rewrite an ONNX file after `function` has changed its graph."""
    model = onnx.load(path)
    function(model.graph)
    onnx.save(model, path)


@pytest.fixture(scope="session")
def edited():
    """Return `edit`."""
    return edit


@pytest.fixture(scope="session")
def changed():
    """Return a function that rewrites one initializer of an ONNX file, by the end of its name."""

    def change(path, ending, function):
        def rewrite(graph):
            (found,) = [value for value in graph.initializer if value.name.endswith(ending)]
            array = np.array(numpy_helper.to_array(found))
            found.CopyFrom(numpy_helper.from_array(function(array), found.name))

        edit(path, rewrite)

    return change


@pytest.fixture(scope="session")
def leg_of(small):
    """Return a function that compares a file with PyTorch, or with other arrays than PyTorch's."""

    def compare(kind, path, file_name=None, **arrays):
        reference = replace(small.reference, arrays={**small.arrays, **arrays})
        return compare_file(kind, path, specs_of(kind, small.pipeline), reference, file_name)

    return compare


@pytest.fixture(scope="session")
def comparing_few(small):
    """Return a context manager that lets a comparison take few X-rays."""

    @contextmanager
    def few():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(artifact, "samples", lambda *_: small.inputs)
            yield

    return few


@pytest.fixture
def few_xrays(small, monkeypatch):
    """Let a comparison take few X-rays: enough where a fault is planted."""
    monkeypatch.setattr(artifact, "samples", lambda *_: small.inputs)


@pytest.fixture
def exporters(monkeypatch, small, changed, few_xrays):
    """Let an export copy the small model's ONNX files, so that a test takes no ten seconds.

    The returned function lets it change an initializer of one kind of file.
    """
    del few_xrays
    faults = {}

    def write(kind, pipeline, record, path, opset):
        del pipeline, record, opset
        with replacing(path) as temporary:
            shutil.copy(small.files.path(kind), temporary)
            if kind in faults:
                changed(temporary, *faults[kind])

    monkeypatch.setattr(export, "export_onnx", write)
    return lambda kind, ending, function: faults.update({kind: (ending, function)})


@pytest.fixture(scope="session")
def graded_folder(tmp_path_factory):
    """A folder of generated X-rays, graded, in train, val and test."""
    folder = tmp_path_factory.mktemp("graded") / "xrays"
    generation.generate(folder, count=160, seed=3)
    return folder


@pytest.fixture(scope="session")
def torch_formats(small, comparing_few, tmp_path_factory):
    """The small model with PyTorch's own formats, what their exports came to, and all warnings."""
    folder = shutil.copytree(small.files.folder, tmp_path_factory.mktemp("torch") / "models")
    files = ModelFiles(folder, small.files.name)
    with comparing_few(), warnings.catch_warnings(record=True) as told:
        results = {kind: export.export(kind, files, files) for kind in ("torchscript", "pt2")}
    return files, results, told
