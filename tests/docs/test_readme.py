"""The README and the pages say what is true: the tour runs, make lines and paths are there."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PACKAGES = ("toolkit", "export", "bento")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_tour_of_the_readme_runs_as_it_stands(tmp_path):
    tour = re.search(r"<!-- tour -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert tour
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-euc", tour[1]], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "saved_models/tour.pipeline.onnx").exists()
    assert result.stdout.count("severe") >= 1


@pytest.mark.parametrize("page", PAGES, ids=lambda each: each.name)
def test_every_make_line_and_path_of_a_page_is_there(page):
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)\b", text, re.MULTILINE)) <= targets
    ours = "toolkit|export|bento|tests|docs|deploy|benchmarks|examples"
    for path in re.findall(rf"`((?:{ours})/[\w/.-]*)`", text):
        assert (ROOT / path).exists(), path


def test_every_link_of_the_readme_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def tree():
    """{path: its line} of the README's tree; a folder ends in a slash, its files are indented."""
    (text,) = re.findall(r"^```\n(toolkit/.*?)^```", README, re.DOTALL | re.MULTILINE)
    found, folders = {}, []
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, told = line.strip().partition(" ")
        folders[depth:] = [name.removesuffix("/")]
        found["/".join(folders)] = told.strip()
    return found


def line_of(path):
    """The line of the tree that a module's own docstring makes."""
    told = ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""
    indent = "  " * (len(path.parts) - 1)
    return f"{indent}{path.name:{22 - len(indent)}}{told.splitlines()[0].rstrip('.')}"


def test_the_tree_of_the_readme_has_a_line_for_every_module_and_names_nothing_else():
    told = tree()
    assert not [path for path in told if not (ROOT / path).exists()]
    modules = [
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "__init__.py"
    ]
    lacking = [line_of(path) for path in modules if len(told.get(path.as_posix(), "")) < 9]
    assert not lacking, "add to the README's tree:\n" + "\n".join(lacking)
