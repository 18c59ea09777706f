"""The page about labels is true: its blocks run in their order, and its files are what it says."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from toolkit.xray.annotations import label_file
from toolkit.xray.annotations.label_file import read_label_file
from toolkit.xray.labels import LABEL_MAPS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/howto/labels.md").read_text()
BLOCKS = re.findall(r"^```(sh|toml)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A folder in which someone did what the page says, and what they were told."""
    folder, told = tmp_path_factory.mktemp("page"), ""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for kind, text in BLOCKS:
        if kind == "toml":
            (folder / text.partition("\n")[0].removeprefix("# ")).write_text(text)
            continue
        done = subprocess.run(
            ["bash", "-euc", text], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        told += done.stdout
    return folder, told


def test_the_blocks_run_in_their_order(followed):
    _, told = followed
    assert "early     late" in told and "affected, somehow" in told and "none     some" in told
    assert told.count("60 X-rays of 30 patients, told apart by") == 3


def test_the_file_of_kellgren_lawrence_is_the_map_that_it_stands_for(followed):
    folder, _ = followed
    found = read_label_file(folder / "kellgren-lawrence.toml").labels
    assert replace(found, name="study") == LABEL_MAPS["study"]


def test_every_key_of_a_file_of_labels_has_a_row():
    listed = set(re.findall(r"^\| `(\w+)` \| (class|file) \|", PAGE, re.MULTILINE))
    known = msgspec.json.schema(label_file.Document)["$defs"]
    keys = {(name, "class") for name in known["ListedClass"]["properties"]}
    keys |= {(name, "file") for name in known["Document"]["properties"]} - {("classes", "file")}
    assert listed == keys
