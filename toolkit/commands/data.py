"""`toolkit data`: X-rays drawn into a folder, and a look at any such folder."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.console import Console, JsonOption
from toolkit.errors import DataError, ImageError
from toolkit.xray.labels import GRADES

if TYPE_CHECKING:
    from toolkit.xray.folders import XrayFile


def generate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    count: Annotated[int, typer.Option(metavar="N", help="X-rays.", min=1)] = 400,
    seed: Annotated[int, typer.Option(help="The same seed draws the same bytes.", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Draw knee X-rays of grades 0, 2, 3 and 4 as PNG files, a patient's knees in one part."""
    from toolkit.files import write_bytes
    from toolkit.xray.folders import PARTS, patient_of, patient_part
    from toolkit.xray.pictures import encode
    from toolkit.xray.synthetic import generate as draw

    console = Console(as_json)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not empty: give a new folder")
    counts: Counter[str] = Counter()
    for xray in draw(count, seed=seed):
        part = patient_part(patient_of(xray.name))
        write_bytes(folder / part / str(xray.grade) / f"{xray.name}.png", encode(xray.pixels))
        counts[part] += 1
    shown = ", ".join(f"{part} {counts[part]}" for part in PARTS)
    console.result(
        {"folder": str(folder), "count": count, "seed": seed, "parts": dict(counts)},
        f"{count} X-rays in {folder}: {shown}",
    )


def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Graded X-rays.")],
    as_json: JsonOption = False,
) -> None:
    """Count X-rays and patients; name unreadable files, and patients in several parts."""
    from toolkit.xray.folders import crossing_patients, read_files, scan

    console = Console(as_json)
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * len(GRADES))
    patients: dict[str, list[str]] = defaultdict(list)
    unreadable: list[dict[str, str]] = []
    for file, result in read_files(scan(folder)):
        if isinstance(result, ImageError):
            unreadable.append({"file": str(file.path), "error": str(result)})
            continue
        counts[_part(file)][file.grade] += 1
        patients[_part(file)].append(file.patient)
    crossing = sorted(crossing_patients(patients))
    content: dict[str, Any] = {
        "folder": str(folder),
        "counts": counts,
        "xrays": sum(map(sum, counts.values())),
        "patients": len(set().union(*patients.values())),
        "crossing_patients": crossing,
        "unreadable": unreadable,
    }
    console.result(content, _text(content))


def _part(file: "XrayFile") -> str:
    return file.part or "all"


def _text(content: dict[str, Any]) -> str:
    lines = ["part   " + "".join(f"{f'grade {grade}':>9}" for grade in GRADES)]
    lines += [
        f"{part:7}" + "".join(f"{count:9d}" for count in row)
        for part, row in content["counts"].items()
    ]
    lines.append(f"{content['xrays']} X-rays of {content['patients']} patients")
    crossing = content["crossing_patients"]
    if crossing:
        shown = ", ".join(crossing[:10]) + (", ..." if len(crossing) > 10 else "")
        lines.append(f"{len(crossing)} patients are in more than one part: {shown}")
    lines += [f"unreadable: {each['file']}: {each['error']}" for each in content["unreadable"]]
    if content["unreadable"]:
        lines.append(f"{len(content['unreadable'])} files cannot be read")
    return "\n".join(lines)
