"""Another name for a model: its files, its former files, and what its manifest calls them."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from toolkit.errors import UsageError
from toolkit.files import held_signals
from toolkit.model import manifest
from toolkit.model.files import ModelFiles, checked_new_name


def rename(source: ModelFiles, name: str) -> ModelFiles:
    """Give a model, and the former one that is kept beside it, another name.

    What was stopped half-way is finished by the next call.

    Returns:
        The files under the new name.

    Raises:
        ManifestError: no such model, or its manifest cannot be read.
        UsageError: no new model can have that name, another model has it, or the files cannot be
            renamed.
    """
    target = ModelFiles(source.folder, checked_new_name(name))
    pairs = [(source, target)]
    if source.previous.manifest.exists():
        pairs.insert(0, (source.previous, target.previous))
    records = [renamed(manifest.load(former.manifest), new) for former, new in pairs]
    for former, new in pairs:
        _require_free(former, new)
    with held_signals():
        for (former, new), record in zip(pairs, records, strict=True):
            _move(former, new, record)
    return target


def renamed(record: manifest.Manifest, files: ModelFiles) -> manifest.Manifest:
    """Return a manifest that speaks of `files` by their names; hashes stay as they are."""
    record = replace(record, name=files.name)
    if record.export:
        artifacts = {
            kind: replace(artifact, file=files.path(kind).name)
            for kind, artifact in record.export.artifacts.items()
        }
        record = replace(record, export=replace(record.export, artifacts=artifacts))
    if record.equivalence:
        legs = {
            kind: replace(leg, file=files.path(kind).name)
            for kind, leg in record.equivalence.legs.items()
        }
        record = replace(record, equivalence=replace(record.equivalence, legs=legs))
    return record


def _require_free(source: ModelFiles, target: ModelFiles) -> None:
    there = target.present()
    both = [there[kind] for kind in source.present() if kind in there]
    if "manifest" in there or both:
        taken = there.get("manifest") or both[0]
        raise UsageError(f"{taken} is there already: choose another name than {target.name!r}")


def _move(source: ModelFiles, target: ModelFiles, record: manifest.Manifest) -> None:
    moved: list[tuple[Path, Path]] = []
    try:
        for path in source.present().values():
            if path != source.manifest:
                new = target.folder / f"{target.name}{path.name.removeprefix(source.name)}"
                path.rename(new)
                moved.append((path, new))
        manifest.save(record, target.manifest)
        source.manifest.unlink()
    except (OSError, UsageError) as error:
        for path, new in moved:
            with suppress(OSError):
                new.rename(path)
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot rename {source.name}: {reason}") from error
