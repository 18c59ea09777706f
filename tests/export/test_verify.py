"""`toolkit verify` compares what lies on disk, and what a service answers, with PyTorch."""

import json
from dataclasses import replace
from functools import partial

import pytest
from command_line import here

from export import verify as verifying
from export.compare.report import write_report
from export.verify import verify
from toolkit.errors import CheckFailedError, ManifestError, ModelRefusedError
from toolkit.model import manifest
from toolkit.runtime.session import open_model

pytestmark = pytest.mark.usefixtures("few_xrays")


def test_verification_passes_and_is_kept_in_manifest_and_report(copied):
    result = verify(copied, None, None)
    assert result.passed
    page = write_report(result, copied)
    content = json.loads((copied.folder / f"{copied.name}.equivalence.json").read_text())
    assert content["passed"] is True
    for kind, leg in content["legs"].items():
        assert leg["file"] == copied.path(kind).name
        assert leg["sha256"] == manifest.load(copied.manifest).export.artifacts[kind].sha256
        for output in leg["outputs"]:
            assert sum(output["histogram"]) > 0
    text = page.read_text()
    assert "passed" in text and "http" not in text, "nothing is loaded from outside"


@pytest.fixture
def command(copied):
    """Return a function that runs `toolkit verify` of the model: its exit code and what it says."""
    return partial(here, "verify", copied.name, "--models", copied.folder)


@pytest.mark.parametrize("passed", [True, False])
def test_the_verdict_is_printed_where_nothing_can_be_written(copied, command, full_disk, passed):
    if not passed:
        copied.path("network").write_bytes(b"changed")
    before = {path: path.read_bytes() for path in copied.folder.iterdir()}
    with full_disk(0):
        code, out, err = command()
    verdict = "is equal to PyTorch" if passed else "is not equal to PyTorch: network: "
    assert out.startswith(f"{copied.name} {verdict}") and code == (0 if passed else 1)
    assert "there is no report: cannot write" in err
    assert "the verdict is not kept: cannot write" in err
    assert {path: path.read_bytes() for path in copied.folder.iterdir()} == before


def test_what_another_command_made_of_the_manifest_meanwhile_is_kept(copied, monkeypatch):
    copied.path("network").write_bytes(b"changed")  # the verdict is another than before
    record = manifest.load(copied.manifest)
    other = replace(record, training=replace(record.training, epochs=99))
    reference_of = verifying.reference_of

    def meanwhile(*arguments):
        manifest.save(other, copied.manifest)
        return reference_of(*arguments)

    monkeypatch.setattr(verifying, "reference_of", meanwhile)
    assert "changed by another command meanwhile" in verify(copied, None, None).unkept
    assert manifest.load(copied.manifest) == other


def test_the_report_goes_where_it_is_asked_for_and_links_stay_links(copied, command, tmp_path):
    store = tmp_path / "store"
    copied.folder.rename(store)
    copied.folder.mkdir()
    for path in store.iterdir():
        (copied.folder / path.name).symlink_to(path)
    copied.manifest.resolve().chmod(0o644)
    linked = sorted(path.name for path in copied.folder.iterdir())
    record = manifest.load(copied.manifest)
    verdict = replace(record.equivalence, versions={}, answers_sha256="")
    former = replace(record, equivalence=verdict)
    manifest.save(former, copied.manifest)
    code, out, err = command("--json", "--out", tmp_path / "report")
    assert code == 0, err
    page = tmp_path / "report" / f"{copied.name}.equivalence.html"
    assert json.loads(out)["report"] == str(page) and page.is_file()
    assert sorted(path.name for path in copied.folder.iterdir()) == linked
    assert all(path.is_symlink() for path in copied.folder.iterdir())
    assert manifest.load(copied.manifest).equivalence.versions

    (tmp_path / "file").write_text("")
    code, out, err = command("--json", "--out", tmp_path / "file")
    assert code == 2 and "choose another folder with --out" in json.loads(out)["error"]


@pytest.mark.parametrize("kind", ["network", "pipeline"])
def test_changed_and_missing_files_fail_by_name_and_are_not_served(copied, kind):
    path = copied.path(kind)
    path.write_bytes(path.read_bytes()[:-1])
    result = verify(copied, None, None)
    assert not result.passed
    assert path.name in result.legs[kind].failures[0]
    assert "changed or truncated" in result.legs[kind].failures[0]
    with pytest.raises(ModelRefusedError):
        open_model(copied.folder, copied.name)
    path.unlink()
    assert "missing" in verify(copied, None, None).legs[kind].failures[0]
    assert "failed" in write_report(result, copied).read_text()


def test_nothing_exported_is_refused(small, copied):
    manifest.save(replace(small.record, export=None, equivalence=None), copied.manifest)
    with pytest.raises(ModelRefusedError, match="toolkit export onnx"):
        verify(copied, None, None)


def test_a_service_is_compared_by_its_pipeline_and_left_out_of_the_manifest(copied, monkeypatch):
    asked = {}
    leg = manifest.load(copied.manifest).equivalence.legs["pipeline"]

    def compare(url, pipeline, samples, digest):
        asked.update(url=url, digest=digest, count=len(samples.kinds), network=pipeline.network)
        return replace(leg, passed=False, failures=("it differs",))

    monkeypatch.setattr(verifying, "compare_service", compare)
    result = verify(copied, None, "http://127.0.0.1:9")
    assert not result.passed and result.failures == ["service: it differs"]
    assert (asked["url"], asked["digest"]) == ("http://127.0.0.1:9", leg.sha256)
    assert asked["count"] == len(result.samples.kinds)
    assert result.record == manifest.load(copied.manifest)
    assert "service" not in result.record.equivalence.legs and result.record.equivalence.passed
    assert "service: <span" in write_report(result, copied).read_text()


def test_the_verdict_on_the_files_stands_where_the_service_cannot_be_reached(command, monkeypatch):
    def compare(url, *_):
        raise CheckFailedError(f"{url} does not answer")

    monkeypatch.setattr(verifying, "compare_service", compare)
    url = "http://127.0.0.1:9"
    code, out, err = command("--url", url)
    assert code == 1 and out.startswith("small is equal to PyTorch\n") and "the report is" in out
    said = "small is equal to PyTorch, but the service was not compared: "
    assert err.splitlines()[-1].startswith(f"error: {said}{url} does not answer")
    code, out, _ = command("--url", url, "--json")
    assert code == 1 and json.loads(out)["error"].startswith(said)


def test_what_is_no_address_is_said_before_anything_is_compared(command, monkeypatch):
    monkeypatch.setattr(verifying, "reference_of", None)
    code, out, err = command("--url", "localhost:3000")
    assert (code, out) == (2, "") and "no address of a service" in err


def test_a_manifest_whose_export_does_not_hang_together_is_never_called_equal(copied):
    content = copied.manifest.read_text()

    def spoiled(change):
        parts = json.loads(content)
        change(parts["export"]["artifacts"], parts["equivalence"]["legs"])
        copied.manifest.write_text(json.dumps(parts))
        return verify

    for change in (lambda files, _: files.clear(), lambda _, legs: legs.pop("pipeline")):
        with pytest.raises(ModelRefusedError, match="no exported files with their equivalence"):
            spoiled(change)(copied, None, None)
    with pytest.raises(ModelRefusedError, match="no pipeline that a service could serve"):
        spoiled(lambda files, _: files.pop("pipeline"))(copied, None, "http://127.0.0.1:9")
    with pytest.raises(ManifestError, match="'foo' is no kind of file"):
        spoiled(lambda files, _: files.update(foo=files["pipeline"]))(copied, None, None)
