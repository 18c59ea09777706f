"""`toolkit data`: X-rays drawn into a folder, and a look at any such folder."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.commands.options.common import LABELS_HELP, GroupsOption, PatientsOption
from toolkit.console import Console, JsonOption
from toolkit.errors import DataError, ImageError, numbered
from toolkit.xray.labels import GRADES

if TYPE_CHECKING:
    from toolkit.xray.folders import XrayFile
    from toolkit.xray.labels import LabelMap


def generate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    count: Annotated[int, typer.Option(metavar="N", help="X-rays.", min=1)] = 400,
    seed: Annotated[int, typer.Option(help="The same seed draws the same bytes.", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Draw knee X-rays of grades 0, 2, 3 and 4 as PNG files, a patient's knees in one part."""
    from toolkit.files import require_parent, write_bytes
    from toolkit.xray.annotations.patients import by_name
    from toolkit.xray.folders import PARTS, patient_part
    from toolkit.xray.pictures import encode
    from toolkit.xray.synthetic import generate as draw

    console = Console(as_json)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not empty: give a new folder")
    require_parent(folder, "the path")
    counts: Counter[str] = Counter()
    xrays = list(draw(count, seed=seed))
    for xray, patient in zip(xrays, by_name([xray.name for xray in xrays]).keys, strict=True):
        part = patient_part(patient)
        write_bytes(folder / part / str(xray.grade) / f"{xray.name}.png", encode(xray.pixels))
        counts[part] += 1
    shown = ", ".join(f"{part} {counts[part]}" for part in PARTS)
    console.result(
        {"folder": str(folder), "count": count, "seed": seed, "parts": dict(counts)},
        f"{numbered(count, 'X-ray')} in {folder}: {shown}",
    )


def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="X-rays of two classes or more.")],
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS",
            help=f"What the classes are: {LABELS_HELP}; if not given, grades where folders "
            "are called so, else folders.",
        ),
    ] = None,
    patients: PatientsOption = None,
    groups: GroupsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count X-rays and patients; name what is left out, unreadable, contradictory or copied."""
    from toolkit.xray.annotations.patients import PatientRule, identify_patients
    from toolkit.xray.annotations.sources import read_annotations
    from toolkit.xray.bulk import read_files
    from toolkit.xray.copies import copies, differing, picture_key
    from toolkit.xray.folders import class_of, crossing_patients, left_out_lines, scan

    console = Console(as_json)
    rule, said = PatientRule(patients, groups), read_annotations(labels)
    label_map = said.labels_in(folder) if labels else _labels_shown_by(folder)
    classes = label_map.classes if label_map else tuple(f"grade {grade}" for grade in GRADES)
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * len(classes))
    files: list[XrayFile] = []
    places: list[int] = []
    pictures: list[bytes] = []
    dropped = 0
    unreadable: list[dict[str, str]] = []
    for file, result in read_files(scan(folder, label_map, said.table)):
        place = class_of(file, label_map) if label_map else file.grade
        if isinstance(result, ImageError):
            unreadable.append({"file": str(file.path), "error": str(result)})
        elif place is None:
            dropped += 1
        else:
            counts[_part(file)][place] += 1
            files.append(file)
            places.append(place)
            pictures.append(picture_key(result))
    found = identify_patients(files, folder, rule)
    same = copies(pictures)

    def pairs(values: list[Any]) -> list[list[str]]:
        return [[str(files[place].path) for place in pair] for pair in differing(same, values)]

    content: dict[str, Any] = {
        "folder": str(folder),
        "classes": classes,
        "counts": counts,
        "xrays": len(files),
        "dropped": dropped,
        "patients": found.count,
        "told_apart": found.description(),
        "warnings": [warning] if (warning := found.warning()) else [],
        "crossing_patients": sorted(crossing_patients(map(_part, files), found.keys)),
        "conflicts": pairs(places),
        "copies_in_other_parts": pairs([file.part for file in files]),
        "left_out": left_out_lines(folder, label_map, said.table),
        "unreadable": unreadable,
    }
    console.result(content, _text(content, "classes" if label_map else "grades"))


def _labels_shown_by(folder: Path) -> "LabelMap | None":
    """Return labels of the folders that are there; None where some are grades.

    Raises:
        DataError: there is no such folder, or no X-ray in what could be a class.
    """
    from toolkit.xray.folders import class_folder_names, folder_labels, scan

    try:
        scan(folder)
    except DataError:
        if len(class_folder_names(folder)) < 2:
            raise
        return folder_labels(folder)
    return None


def _part(file: "XrayFile") -> str:
    return file.part or "all"


def _text(content: dict[str, Any], what: str) -> str:
    columns = [(name, max(9, len(name) + 2)) for name in content["classes"]]
    lines = ["part   " + "".join(f"{name:>{width}}" for name, width in columns)]
    lines += [
        f"{part:7}"
        + "".join(f"{count:{width}d}" for count, (_, width) in zip(row, columns, strict=True))
        for part, row in content["counts"].items()
    ]
    if content["dropped"]:
        lines.append(f"{numbered(content['dropped'], 'X-ray')} of grades that the labels drop")
    lines.append(f"{numbered(content['xrays'], 'X-ray')} of {content['told_apart']}")
    lines += [f"warning: {warning}" for warning in content["warnings"]]
    crossing = content["crossing_patients"]
    if crossing:
        lines.append(
            f"{numbered(len(crossing), 'patient')} in more than one part: {_some(crossing)}"
        )
    conflicts = [" and ".join(pair) for pair in content["conflicts"]]
    lines += [f"under two {what}: {pair}" for pair in conflicts]
    if conflicts:
        lines.append(f"{numbered(len(conflicts), 'X-ray')} under two {what}")
    copied = [" and ".join(pair) for pair in content["copies_in_other_parts"]]
    if copied:
        lines.append(
            f"{numbered(len(copied), 'X-ray')} with copies in another part: {_some(copied)}"
        )
    lines += content["left_out"]
    lines += [f"unreadable: {each['error']}" for each in content["unreadable"]]
    if content["unreadable"]:
        lines.append(f"{numbered(len(content['unreadable']), 'file')} that cannot be read")
    return "\n".join(lines)


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
