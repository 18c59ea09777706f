"""Stdout and stderr that are closed, full or read by nobody: no traceback, no wrong exit code."""

import array
import fcntl
import json
import os
import shlex
import subprocess
import termios
from pathlib import Path

import pytest
from command_line import TOOLKIT, here

ROOT = Path(__file__).resolve().parents[2]
SMALLEST_PIPE = 4096
UNREAD = 141
FULL = pytest.mark.full


@pytest.fixture
def shell(tmp_path):
    """Return a function that runs a line of bash, in which toolkit is `toolkit`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TOOLKIT_", "PYTHON"))}

    def run(line):
        return subprocess.run(
            ["bash", "-c", f'toolkit() {{ {shlex.quote(str(TOOLKIT))} "$@"; }}; {line}'],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=clean,
        )

    return run


@pytest.mark.parametrize(
    ("command", "code", "out", "err"),
    [
        ("--help", 0, "Usage: toolkit", ""),
        pytest.param("data generate drawn --count 9", 0, "9 X-rays in drawn", "", marks=FULL),
        pytest.param("data generate drawn --count 9 --json", 0, '"count": 9', "", marks=FULL),
        pytest.param("nonsense", 2, "", "error: No such command", marks=FULL),
        ("nonsense --json", 2, '{"error": "No such command', "error: No such command"),
        pytest.param("tune --timeout soon", 2, "", "error: --timeout 'soon'", marks=FULL),
    ],
)
def test_what_is_closed_changes_neither_the_exit_code_nor_the_other_stream(
    shell, command, code, out, err
):
    for closed in (">&-", "2>&-", ">&- 2>&-", ">&- 2>&- <&-"):
        done = shell(f"rm -rf drawn; toolkit {command} {closed}")
        assert done.returncode == code, (closed, done.stderr)
        assert "Traceback" not in done.stdout + done.stderr
        for said, wanted, lost in ((done.stdout, out, " >&-"), (done.stderr, err, "2>&-")):
            gone = lost in f" {closed}"
            assert (wanted in said and bool(said) == bool(wanted)) if not gone else said == "", said


def test_a_file_is_never_taken_for_the_stream_that_is_closed(shell, tmp_path):
    done = shell("toolkit data generate drawn --count 9 >&- 2>&- <&-")
    assert done.returncode == 0
    from toolkit.xray.reading import read_xray

    files = list((tmp_path / "drawn").rglob("*.png"))
    assert len(files) == 9 and all(read_xray(each).shape == (224, 224) for each in files)


@pytest.mark.parametrize(
    "command", ["--help", "train --help", "data generate drawn --count 1", "card --help"]
)
def test_a_reader_that_goes_away_is_no_failed_check_and_no_noise(shell, command):
    done = shell(f"toolkit {command} | true; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (UNREAD, "")


def test_a_reader_that_goes_away_keeps_the_code_of_what_failed(shell):
    for command, code in (("nonsense", 2), ("doctor none", 1)):
        done = shell(f"toolkit {command} --json | true; exit ${{PIPESTATUS[0]}}")
        assert done.returncode == code and "Traceback" not in done.stderr


def test_work_goes_on_where_nobody_reads_its_notices(shell, tmp_path):
    """Of a model without manifest a warning is said before its X-rays are looked at."""
    (tmp_path / "alone.onnx").symlink_to(ROOT / "saved_models" / "model_saved.pipeline.onnx")
    done = shell(
        "toolkit data generate drawn --count 1; "
        "toolkit predict alone.onnx drawn/*/*/*.png --json 2>&1 >result.json | true; "
        "exit ${PIPESTATUS[0]}"
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "result.json").read_text())["results"]
    assert "label" in result


@pytest.mark.parametrize("more", ["", "--json"])
def test_a_result_that_does_not_fit_is_one_line(shell, more):
    done = shell(f"toolkit data generate drawn --count 1 {more} >/dev/full")
    assert done.returncode == 2
    assert done.stderr == "error: cannot write the result: No space left on device\n"


def test_a_pipe_that_does_not_block_gets_the_whole_output():
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
    os.set_blocking(writer, False)
    command = [TOOLKIT, "train", "--help"]
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    waiting = array.array("i", [0])
    while not waiting[0] and process.poll() is None:
        fcntl.ioctl(reader, termios.FIONREAD, waiting)
    with os.fdopen(reader) as stream:
        text = stream.read()
    assert process.wait() == 0, process.stderr.read()
    process.stderr.close()
    assert len(text) > SMALLEST_PIPE and "Print one JSON object" in text


def test_another_pipe_that_breaks_is_no_failed_check(monkeypatch, png_folder):
    def scan(_):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("toolkit.xray.folders.scan", scan)
    assert here("data", "inspect", png_folder("0/1L")).code == 2
