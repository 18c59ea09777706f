import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "optuna", "onnx", "onnxruntime", "onnxscript", "bentoml", "tensorboard"}
HEAVY |= {"pyarrow", "ray"}
# Files that serving may use: no torch, and nothing of a file that holds torch.
LIGHT = {
    "toolkit",
    *(
        f"toolkit.{name}"
        for name in (
            "errors",
            "decoding",
            "dicom",
            "dicom_display",
            "dicom_pixels",
            "dicom_tags",
            "manifest",
            "proof",
            "images",
            "jpeg",
            "labels",
            "limits",
            "folders",
            "files",
            "scaling",
            "store",
        )
    ),
    *(
        f"toolkit.{name}"
        for name in ("extras", "metrics", "occlusion", "heat_picture", "synthetic")
    ),
    *(f"toolkit.{name}" for name in ("client", "transport", "tolerance")),
}
# All of bento but the service itself, which is BentoML's, and what prepares BentoML before it.
SERVING = {
    "bento",
    "bento.page",
    *(f"bento.{path.stem}" for path in (ROOT / "bento").glob("[a-z]*.py")),
} - {"bento.service", "bento.home"}
BATCH = {
    f"batch.{name}"
    for name in ("cluster", "crew", "judging", "listing", "progress", "run", "table", "workspace")
}


def imported_by(module):
    """Names of all modules that importing `module` brings in, in a process of its own."""
    script = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def heavy_of(modules):
    return {name.partition(".")[0] for name in modules} & HEAVY


def ours(modules):
    return {
        name
        for name in modules
        if name.partition(".")[0] in ("toolkit", "export", "bento", "batch")
    }


def test_the_command_line_starts_without_anything_heavy():
    modules = imported_by("toolkit.cli")
    assert not heavy_of(modules)
    assert not {"numpy", "PIL", "rich.progress"} & modules


@pytest.mark.parametrize("module", sorted((LIGHT | SERVING) - {"toolkit", "bento"}))
def test_a_light_file_brings_in_no_torch_and_nothing_that_holds_it(module):
    modules = imported_by(module)
    assert not heavy_of(modules)
    assert ours(modules) <= LIGHT | SERVING


@pytest.mark.parametrize("module", sorted(BATCH))
def test_predicting_many_brings_in_no_torch_and_nothing_heavy_before_it_is_needed(module):
    modules = imported_by(module)
    assert not heavy_of(modules)
    assert ours(modules) <= LIGHT | BATCH | {"batch"}


def test_serving_uses_only_light_files_of_the_toolkit():
    modules = set().union(*(imported_by(module) for module in SERVING - {"bento"}))
    assert ours(modules) <= LIGHT | SERVING
    assert "toolkit.images" in modules


def test_the_bento_holds_every_file_of_the_toolkit_that_serving_uses():
    listed = re.findall(r'- "(toolkit/.*\.py)"', (ROOT / "bentofile.yaml").read_text())
    held = {path.stem for pattern in listed for path in ROOT.glob(pattern)}
    modules = set().union(*(imported_by(module) for module in SERVING - {"bento"}))
    used = {name.partition(".")[2] for name in ours(modules) if name.startswith("toolkit.")}
    assert used and used <= held


def sources():
    paths = [
        p for name in ("toolkit", "export", "bento", "batch") for p in (ROOT / name).rglob("*.py")
    ]
    assert len(paths) > 25
    return {path.relative_to(ROOT): ast.parse(path.read_text()) for path in paths}


def imports_of(tree, package):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: 1 - node.level or None], base]).strip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def test_nobody_imports_the_command_line():
    for path, tree in sources().items():
        found = set(imports_of(tree, ".".join(path.parent.parts)))
        assert not {name for name in found if f"{name}.".startswith("toolkit.cli.")}, path


def test_serving_never_imports_a_file_that_holds_torch_not_even_later():
    for path, tree in sources().items():
        if path.parts[0] in ("bento", "batch"):
            found = set(imports_of(tree, path.parts[0]))
            mine = {".".join(each.split(".")[:2]) for each in found if each.startswith("toolkit")}
            known = {
                each
                for each in mine
                if each in LIGHT or (ROOT / f"{each.replace('.', '/')}.py").exists()
            }
            assert known <= LIGHT, path
            assert not {each for each in found if each.partition(".")[0] in ("torch", "export")}, (
                path
            )


def test_the_toolkit_never_imports_export_or_serving_at_the_top_of_a_file():
    for path, tree in sources().items():
        if path.parts[0] == "toolkit":
            top = ast.Module([node for node in tree.body if not isinstance(node, ast.If)], [])
            top.body = [n for n in top.body if isinstance(n, ast.Import | ast.ImportFrom)]
            found = set(imports_of(top, "toolkit"))
            assert not {
                each for each in found if each.split(".")[0] in ("export", "bento", "batch")
            }, path


def test_the_entry_point_is_the_command_line():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"toolkit": "toolkit.cli:main"}
