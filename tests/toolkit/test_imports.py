"""A folder says what its files may import; every file is held against it."""

import ast
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

import toolkit

ROOT = Path(__file__).resolve().parents[2]
WALLS = (ROOT / "docs/architecture.md").read_text()
PUBLIC = set(toolkit.__all__) - {"__version__"}
PACKAGES = ("toolkit", "export", "bento")
HEAVY = {"torch", "optuna", "onnx", "onnxruntime", "onnxscript", "bentoml", "tensorboard"}
HEAVY |= {"matplotlib", "pyarrow", "ray", "starlette"}
# What a folder may import of these, at any time; a folder that is not here may not be.
PLAIN, RUNTIME, TORCH = range(3)
ROOMS = {
    "toolkit": PLAIN,
    "toolkit/xray": PLAIN,
    "toolkit/model": PLAIN,
    "toolkit/package": PLAIN,
    "toolkit/doctor": PLAIN,
    "toolkit/runtime": RUNTIME,
    "toolkit/batch": RUNTIME,
    "toolkit/networks": TORCH,
    "toolkit/train": TORCH,
    "toolkit/tune": TORCH,
    "toolkit/original": TORCH,
    "export": TORCH,
    "bento": RUNTIME,
}
# Commands and the public face put the rooms together, and import what they need as they run.
ROOF = {"toolkit/commands", "toolkit/cli.py", "toolkit/__init__.py", "toolkit/__main__.py"}


def sources():
    paths = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
    assert len(paths) > 100
    return [path.relative_to(ROOT) for path in paths]


def on_the_roof(path):
    return any(part.as_posix() in ROOF for part in (path, *path.parents))


def room_of(path):
    """The longest folder of ROOMS that a file or module lies in."""
    names = [path.as_posix(), *(parent.as_posix() for parent in path.parents)]
    return next((name for name in names if name in ROOMS), None)


def imports_of(path, nodes=ast.walk):
    """Every module that a file imports, at its top or later."""
    for node in nodes(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports name the whole package"
            public = {alias.name for alias in node.names} & PUBLIC
            assert node.module != "toolkit" or not public, f"{path}: {public} is for users"
            yield node.module
            yield from (
                f"{node.module}.{alias.name}"
                for alias in node.names
                if (ROOT / node.module.replace(".", "/") / alias.name).is_dir()
                or (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").is_file()
            )


def module_path(name):
    path = Path(name.replace(".", "/"))
    return path if (ROOT / path).is_dir() else path.with_suffix(".py")


def test_the_walls_in_the_docs_are_those_that_stand():
    rows = re.findall(r"^\| (`.*?) \| (yes|no) \| (yes|no) \|", WALLS, re.MULTILINE)
    told = {
        room: PLAIN + (runtime == "yes") + (torch == "yes")
        for rooms, torch, runtime in rows
        for room in re.findall("`(.+?)`", rooms)
    }
    assert told == ROOMS


@pytest.mark.parametrize("path", sources(), ids=str)
def test_a_file_imports_only_what_its_room_may(path):
    if on_the_roof(path):
        return
    room = room_of(path)
    assert room, f"{path} lies in no room"
    for name in imports_of(path):
        top = name.partition(".")[0]
        if top == "torch":
            assert ROOMS[room] == TORCH, name
        elif top == "onnxruntime":
            assert ROOMS[room] >= RUNTIME, name
        elif top in PACKAGES:
            other = module_path(name)
            assert not on_the_roof(other), name
            assert top in ("toolkit", path.parts[0]), f"{name} is beyond the wall"
            assert ROOMS[room_of(other)] <= ROOMS[room], f"{name} is further up"


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


def test_the_command_line_starts_without_anything_heavy():
    modules = imported_by("toolkit.cli")
    assert not heavy_of(modules)
    assert not {"numpy", "PIL", "rich.progress"} & modules


@pytest.mark.parametrize("level", [PLAIN, RUNTIME])
def test_files_without_torch_bring_in_nothing_heavy_before_it_is_needed(
    level, monkeypatch, tmp_path
):
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    modules = [
        ".".join(path.with_suffix("").parts)
        for path in sources()
        if not on_the_roof(path)
        and ROOMS[room_of(path)] == level
        and path.name != "__init__.py"
        # Where BentoML begins, it may be imported; the line itself says so.
        and "noqa: TID253" not in (ROOT / path).read_text()
    ]
    assert not heavy_of(imported_by(", ".join(modules)))


def test_the_bento_holds_every_file_that_serving_uses():
    patterns = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["include"]
    assert not [each for each in patterns if each.startswith("toolkit/") and "*" not in each]
    waiting, used = {path for path in sources() if path.parts[0] == "bento"}, set()
    while waiting:
        path = waiting.pop()
        used.add(path)
        for name in imports_of(path):
            if name.partition(".")[0] in PACKAGES:
                other = module_path(name)
                other = other / "__init__.py" if (ROOT / other).is_dir() else other
                waiting |= {other} - used
    missing = [
        str(each)
        for each in used
        if not any(fnmatch(each.as_posix(), p.replace("**/", "*")) for p in patterns)
    ]
    assert len(used) > 30 and not missing


def test_the_entry_point_is_the_command_line():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"toolkit": "toolkit.cli:main"}
