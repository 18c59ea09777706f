"""What an image is made of, as CycloneDX says it: its wheels, its model, where that comes from."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from toolkit.extras import require
from toolkit.files import write_bytes
from toolkit.package.bento import Bento


def sbom(bento: Bento, image: str, wheels: Iterable[Mapping[str, Any]]) -> str:
    """Return the bill of materials of an image, JSON of CycloneDX 1.6.

    Args:
        bento: what the image holds.
        image: its name and tag.
        wheels: as `toolkit.package.image.wheels` gives them.

    Raises:
        MissingExtraError: cyclonedx-python-lib is not installed.
    """
    require("cyclonedx", "package")
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    name, _, version = image.partition(":")
    bom = Bom()
    bom.metadata.component = Component(
        name=name,
        version=version,
        type=ComponentType.CONTAINER,
        bom_ref=image,
        properties=[Property(name=f"toolkit.{k}", value=v) for k, v in bento.labels.items()],
    )
    parts = [_model(bento), *map(_wheel, wheels)]
    bom.components.update(parts)
    bom.register_dependency(bom.metadata.component, parts)
    return JsonV1Dot6(bom).output_as_string(indent=1)


def write(bento: Bento, image: str, wheels: Iterable[Mapping[str, Any]], folder: Path) -> Path:
    """Write an image's bill of materials into a folder, and return its path.

    Raises:
        MissingExtraError: cyclonedx-python-lib is not installed.
        UsageError: the folder cannot be written.
    """
    path = folder / f"{image.replace(':', '-')}.cdx.json"
    write_bytes(path, sbom(bento, image, wheels).encode())
    return path


def _model(bento: Bento) -> Any:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    digest = bento.labels["onnx_sha256"]
    return Component(
        name=bento.labels["model"],
        version=digest[:16],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"model:{bento.labels['model']}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
    )


def _wheel(wheel: Mapping[str, Any]) -> Any:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    link = PackageURL("pypi", name=wheel["name"], version=wheel["version"])
    licence = wheel["licence"]
    return Component(
        name=wheel["name"],
        version=wheel["version"],
        type=ComponentType.LIBRARY,
        bom_ref=str(link),
        purl=link,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=wheel["sha256"])],
        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
    )
