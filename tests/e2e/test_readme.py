"""The README says what is true: its tour runs, its make lines exist, its tree is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


@pytest.mark.full
def test_the_tour_of_the_readme_runs_as_it_stands(tmp_path):
    tour = re.search(r"<!-- tour -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert tour
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-euc", tour[1]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "saved_models/tour.pipeline.onnx").exists()
    assert result.stdout.count("severe") >= 1


def test_every_make_line_of_the_readme_is_a_target():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(
        re.findall(
            r"\bmake ([a-z-]+)\b", "\n".join(re.findall(r"`[^`]*`|^make.*$", README, re.MULTILINE))
        )
    )
    assert named
    assert named <= targets


def test_every_path_in_the_tree_of_the_readme_exists():
    tree = re.search(r"```\n(toolkit/.*?)```", README, re.DOTALL)
    assert tree
    folder = ROOT
    for line in tree[1].splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = ROOT / name if name.endswith("/") else ROOT
            assert (ROOT / name).exists(), name
        else:
            assert (folder / name).exists(), name


def test_every_link_of_the_readme_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
