"""Where a network's definition comes from, and that a changed one is refused by name."""

import sys
from dataclasses import replace

import pytest

from toolkit.commands.init import init
from toolkit.errors import DefinitionError, UsageError
from toolkit.model.files import ModelFiles
from toolkit.model.manifest import Manifest
from toolkit.model.records import NetworkRecord, TrainingRecord
from toolkit.networks.checking import check
from toolkit.networks.default import StudyNetwork
from toolkit.networks.loading import definition_of, load
from toolkit.xray.labels import LabelMap

CLASS = """
class {name}:
    size, inputs, views = 16, (), ()
    def preprocessing(self): ...
    def module(self, classes): ...
"""


@pytest.fixture
def written(tmp_path):
    """Return a function that writes classes of such names to a file, and returns its path."""

    def write(*names, to="own.py", beside=""):
        path = tmp_path / to
        path.parent.mkdir(exist_ok=True)
        path.write_text(beside + "".join(CLASS.format(name=name) for name in names))
        return path

    return write


def record_of(definition, **changes):
    labels = LabelMap("folders", ("a", "b"), ())
    known = replace(definition.record({"width": 3}), **changes)
    training = TrainingRecord("", {}, None, "cpu", None, {}, {})
    return Manifest("m", labels, None, None, NetworkRecord(None, None, 1, known), training)


def test_without_a_name_it_is_the_studys():
    assert isinstance(load(None).network, StudyNetwork)
    assert load(None).record({}) is None


def test_the_only_class_of_a_file_is_taken_and_of_several_the_named_one(written):
    path = written("Own")
    assert type(load(str(path)).network).__name__ == "Own"
    assert load(str(path)).source == "own.py:Own"
    path = written("First", "Second")
    with pytest.raises(DefinitionError, match=r"several networks, First, Second: choose one"):
        load(str(path))
    assert load(f"{path}:Second").source == "own.py:Second"


def test_what_can_be_imported_is_named_by_its_module(written, monkeypatch):
    path = written("Own", to="ownpackage/nets.py")
    (path.parent / "__init__.py").touch()
    monkeypatch.chdir(path.parents[1])
    monkeypatch.setattr(sys, "path", [*sys.path])
    found = load("ownpackage.nets:Own")
    assert found.source == "ownpackage.nets:Own" and found.content == path.read_bytes()
    again = definition_of(ModelFiles(path.parent, "m"), record_of(found))
    assert again.sha256 == found.sha256
    changed = record_of(found, sha256="0" * 64)
    with pytest.raises(DefinitionError, match=r"nets.py was changed since .* --network"):
        definition_of(ModelFiles(path.parent, "m"), changed)


@pytest.mark.parametrize(
    ("names", "beside", "told"),
    [
        ((), "", "defines no network: .*toolkit init"),
        (("Own",), "import nothing_like_it\n", r"own.py:1 `import nothing_like_it`: ModuleNotF"),
        (("Own",), "a b\n", "own.py:1: SyntaxError"),
    ],
)
def test_a_file_that_is_no_definition_is_told_in_one_line(written, names, beside, told):
    with pytest.raises(DefinitionError, match=told) as caught:
        load(str(written(*names, beside=beside)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["none.py", "no.such.module:Own", "", "own.py:Other"])
def test_a_definition_that_is_not_there_is_told_in_one_line(written, monkeypatch, source):
    monkeypatch.chdir(written("Own").parent)
    with pytest.raises(DefinitionError):
        load(source)


def test_a_model_keeps_its_definition_and_a_changed_one_is_refused_until_it_is_meant(written):
    path = written("Own")
    found, files = load(str(path)), ModelFiles(path.parent, "m")
    record, kept = record_of(found), files.path("definition")
    with pytest.raises(DefinitionError, match=r"m\.network\.py"):
        definition_of(files, record)
    kept.write_bytes(found.content)
    path.write_text("the user's own file may change")
    assert definition_of(files, record).record({"width": 3}) == record.network.definition
    kept.write_bytes(found.content + b"# changed\n")
    with pytest.raises(DefinitionError, match=rf"{kept} was changed since .* --network {kept}"):
        definition_of(files, record)
    meant = definition_of(files, record, str(kept))
    assert meant.sha256 != found.sha256


def test_what_init_writes_works_at_once_and_replaces_nothing(tmp_path):
    path = tmp_path / "my_network.py"
    init(path)
    check(load(str(path)).network, 3, {"width": 4})
    assert len(path.read_text().splitlines()) < 45
    with pytest.raises(UsageError, match="is there already"):
        init(path)
    with pytest.raises(UsageError, match=r"does not end in \.py"):
        init(tmp_path / "network")
