"""Says what pip installed here.

By `python -m bento.image.inventory REPORT`, of `pip install --report`.

Prints a JSON list of {name, version, sha256, licence}, one for each wheel; the hash is that of
the file that was installed, the licence as the package states it, or null.
"""

import json
import sys
from importlib.metadata import PackageMetadata, metadata
from pathlib import Path
from typing import Any

_CLASSIFIER = "License :: OSI Approved :: "


def wheel(installed: dict[str, Any]) -> dict[str, str | None]:
    """Return the entry of one package of pip's report, installed beside this Python."""
    name = installed["metadata"]["name"]
    archive = installed["download_info"]["archive_info"]
    return {
        "name": name,
        "version": installed["metadata"]["version"],
        "sha256": archive["hash"].removeprefix("sha256="),
        "licence": licence(name),
    }


def licence(name: str) -> str | None:
    """Return the licence of an installed package: an SPDX expression, or else its own words."""
    about = metadata(name)
    words = [*_of(about, "License-Expression"), *_of(about, "License")]
    words += [
        each.removeprefix(_CLASSIFIER)
        for each in _of(about, "Classifier")
        if each.startswith(_CLASSIFIER)
    ]
    # Some put the whole text of the licence where its name belongs.
    return next((each for each in words if each and len(each) < 80 and "\n" not in each), None)


def _of(about: PackageMetadata, field: str) -> list[str]:
    return [str(each) for each in about.get_all(field) or []]


def main(report: Path) -> None:
    """Print the list."""
    wheels = [wheel(each) for each in json.loads(report.read_bytes())["install"]]
    print(json.dumps(sorted(wheels, key=lambda each: str(each["name"]).lower()), indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
