"""Every block of the tutorials runs, in order, in one terminal, as it stands.

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
PAGES = ("tutorial.md", "own-network.md", "howto/evaluation.md")
BLOCK = re.compile(
    r"^(?:<!-- where: (?P<where>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
TEXTS = {page: (ROOT / "docs" / page).read_text() for page in PAGES}
BLOCKS = {page: [each.groupdict() for each in BLOCK.finditer(text)] for page, text in TEXTS.items()}
SOURCES = ("bento", "deploy", "examples", "export", "saved_models", "toolkit")
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
def terminal_of(tmp_path_factory, port):
    """Return a function: the terminal of a page, opened when it is first asked for."""
    opened = {}

    def find(page):
        if page not in opened:
            opened[page] = _terminal(tmp_path_factory.mktemp("repository"), port)
        return opened[page]

    yield find
    for each in opened.values():
        each.close()


def _terminal(folder, port):
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "mine")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in FILES:
        shutil.copy2(ROOT / name, folder)
    # What `make .venv/toolkit` would take minutes for is there, and not out of date.
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    os.utime(folder / "pyproject.toml", (0, 0))
    environment = os.environ | {"BENTOML_PORT": str(port), "BENTOML_HOME": str(folder / "bentoml")}
    return Terminal(folder, environment)


@pytest.mark.parametrize(
    ("page", "least"), [("tutorial.md", 13), ("own-network.md", 6), ("howto/evaluation.md", 4)]
)
def test_a_tutorial_has_blocks_and_the_test_sees_them_all(page, least):
    blocks = BLOCKS[page]
    assert len(blocks) == len(re.findall(r"^```\w", TEXTS[page], re.MULTILINE)) >= least
    assert {each["language"] for each in blocks} <= {"sh", "python"}


def test_the_definition_that_is_shown_is_that_of_the_example():
    (shown,) = [each["code"] for each in BLOCKS["own-network.md"] if each["language"] == "python"]
    example = (ROOT / "examples/digits.py").read_text()
    assert all(part.strip() in example for part in shown.split("\n\n\n"))


@pytest.mark.parametrize(
    ("page", "number"), [(page, number) for page in PAGES for number in range(len(BLOCKS[page]))]
)
def test_a_block_of_a_tutorial_runs_as_it_stands(terminal_of, port, page, number):
    terminal, block = terminal_of(page), BLOCKS[page][number]
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
