"""Where a model comes from, in labels: study or run, checkpoint, ONNX files, verdict."""

from collections.abc import Mapping

from toolkit.model.manifest import Manifest


def labels(record: Manifest, digests: Mapping[str, str], commit: str | None) -> dict[str, str]:
    """Return the labels of a package, by name.

    Args:
        record: the manifest of a proven model.
        digests: the SHA-256 of each file that was proven, by kind: `pipeline` and others.
        commit: of the repository that it is packaged from; None where that is not known.
    """
    result = {
        "model": record.name,
        "origin": _origin(record),
        "dataset_sha256": record.dataset.content_sha256 if record.dataset else "",
        "checkpoint_sha256": record.training.checkpoint_sha256,
        "onnx_sha256": digests["pipeline"],
        **{f"{kind}_sha256": digest for kind, digest in digests.items() if kind != "pipeline"},
        "golden_sha256": record.golden.sha256 if record.golden else "",
        "equivalence": _equivalence(record),
        "git_commit": commit or "",
    }
    return {name: value for name, value in result.items() if value}


def _origin(record: Manifest) -> str:
    recipe, tuning = record.training.recipe, record.tuning
    if recipe.get("preset") == "imported":
        return "imported"
    training = record.training
    run = f"preset {recipe.get('preset')}, seed {training.seed}, {training.epochs} epochs"
    if tuning is None:
        return f"run: {run}"
    trials = ", ".join(map(str, tuning.trials))
    return f"study {tuning.study}, seed {tuning.seed}, trials {trials}; run: {run}"


def _equivalence(record: Manifest) -> str:
    if record.equivalence is None:
        return ""
    leg = record.equivalence.legs["pipeline"]
    logits = next(each for each in leg.outputs if each.output == "logits")
    word = "passed" if record.equivalence.passed and leg.passed else "failed"
    return f"{word}: logits within {logits.max_abs:.2g} on {leg.samples} X-rays, {leg.provider}"
