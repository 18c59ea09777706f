"""An image is built by a list of arguments, and says what it is made of."""

import json
from pathlib import Path

import pytest
from command_line import refused

from toolkit.errors import UsageError
from toolkit.model import manifest
from toolkit.package import image, provenance, sbom
from toolkit.package.bento import Bento

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def bento(tmp_path):
    """What a built bento of the shipped model says of itself; its sources are the repository's."""
    (tmp_path / "src").symlink_to(ROOT)
    record = manifest.load(ROOT / "saved_models/model_saved.json")
    labels = provenance.labels(record, {"pipeline": "ab" * 32}, None)
    return Bento("toolkit-model_saved", "0123456789abcdef", tmp_path, labels)


@pytest.mark.parametrize("backend", image.BACKENDS)
def test_the_build_is_a_list_of_arguments_with_the_chain_and_the_given_options(backend, bento):
    options = ["network=host", "volume=/a b:/c:ro", "no-cache"]
    command = image.build_command(bento, "gpu", backend, options)
    assert command[:2] == [backend, "build"]
    assert (command[2:4] == ["--format", "docker"]) == (backend != "docker")
    assert f"toolkit-model_saved:{bento.version}-gpu" in command
    assert "--build-arg=PROVIDER=cuda" in command
    assert f"--label=toolkit.onnx_sha256={bento.labels['onnx_sha256']}" in command
    assert command[-4:-1] == ["--network=host", "--volume=/a b:/c:ro", "--no-cache"]
    assert Path(command[command.index("--file") + 1]).is_file() and Path(command[-1]) == bento.path
    for bad in ("--network=host", "=x", "", "-v", "a b=c"):
        with pytest.raises(UsageError, match="is not KEY=VALUE"):
            image.build_command(bento, "cpu", backend, [bad])


def test_options_of_an_image_without_one_are_refused(monkeypatch):
    assert "go with --image" in refused("package", "--opt", "network=host", cwd=ROOT)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match="not installed: podman, docker, buildah"):
        image.find_backend(None)
    with pytest.raises(UsageError, match="not installed: docker"):
        image.find_backend("docker")


def test_the_bill_of_materials_is_valid_cyclonedx_and_lists_wheels_and_model(bento):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    wheels = [
        {"name": "numpy", "version": "2.4.6", "sha256": "a" * 64, "licence": "BSD-3-Clause"},
        {"name": "odd", "version": "1", "sha256": "b" * 64, "licence": "the licence of odd"},
        {"name": "silent", "version": "1", "sha256": "c" * 64, "licence": None},
    ]
    text = sbom.sbom(bento, f"{bento.tag}-cpu", wheels)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    parts = {each["name"]: each for each in bill["components"]}
    assert set(parts) == {"model_saved", "numpy", "odd", "silent"}
    assert parts["model_saved"]["type"] == "machine-learning-model"
    assert parts["model_saved"]["hashes"][0]["content"] == bento.labels["onnx_sha256"]
    assert parts["numpy"]["purl"] == "pkg:pypi/numpy@2.4.6"
    assert parts["numpy"]["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    named = {each["name"]: each["value"] for each in bill["metadata"]["component"]["properties"]}
    assert named == {f"toolkit.{name}": value for name, value in bento.labels.items()}
