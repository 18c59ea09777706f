"""Every block of the tutorial runs, in order, in one terminal, as it stands.

A comment `<!-- where: COMMAND -->` before a block names what has to succeed for it to run; where
that fails, the block's test skips. Only the port is another one.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/tutorial.md").read_text()
BLOCK = re.compile(
    r"^(?:<!-- where: (?P<where>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
BLOCKS = [each.groupdict() for each in BLOCK.finditer(TEXT)]
SOURCES = ("bento", "deploy", "export", "saved_models", "toolkit")
FILES = ("Makefile", "bentofile.yaml", "pyproject.toml", "README.md", "LICENSE")

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


class Terminal:
    """A shell in `folder` that blocks are typed into; it ends where one fails, as with `set -e`."""

    def __init__(self, folder, environment):
        self._folder = folder
        self.failed = False
        self._shell = subprocess.Popen(
            ["bash", "-eu"],
            cwd=folder,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, code):
        """Run code and return what it printed."""
        self._shell.stdin.write(f"{code}\nprintf '\\n<done>\\n'\n")
        self._shell.stdin.flush()
        lines = []
        for line in self._shell.stdout:
            if line == "<done>\n":
                return "".join(lines)
            lines.append(line)
        self.failed = True
        pytest.fail("".join(lines))

    def close(self):
        """End the shell and whatever was started in it."""
        os.killpg(self._shell.pid, signal.SIGTERM)
        self._shell.communicate(timeout=60)


@pytest.fixture(scope="module")
def port(free_port):
    return free_port()


@pytest.fixture(scope="module")
def terminal(tmp_path_factory, port):
    folder = tmp_path_factory.mktemp("repository")
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "mine")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in FILES:
        shutil.copy2(ROOT / name, folder)
    # What `make .venv/toolkit` would take minutes for is there, and not out of date.
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    os.utime(folder / "pyproject.toml", (0, 0))
    environment = os.environ | {"BENTOML_PORT": str(port), "BENTOML_HOME": str(folder / "bentoml")}
    opened = Terminal(folder, environment)
    yield opened
    opened.close()


def test_the_tutorial_has_blocks_and_the_test_sees_them_all():
    assert len(BLOCKS) == len(re.findall(r"^```\w", TEXT, re.MULTILINE)) > 12
    assert {each["language"] for each in BLOCKS} == {"sh", "python"}


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_the_tutorial_runs_as_it_stands(terminal, port, number):
    block = BLOCKS[number]
    if terminal.failed:
        pytest.skip("a block before this one failed")
    if block["where"] and "met" not in terminal.run(
        f"({block['where']}) &> /dev/null && echo met || :"
    ):
        pytest.skip(f"not here: {block['where']}")
    code = block["code"].replace("localhost:3000", f"localhost:{port}")
    if block["language"] == "python":
        code = f"python - <<'PYTHON'\n{code}PYTHON"
    terminal.run(code)
