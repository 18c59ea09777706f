"""What is shown of a long run: lines now and then, or a bar on a terminal."""

import pytest

from toolkit.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, which the test sets."""
    now = [100.0]
    monkeypatch.setattr("toolkit.progress.time.monotonic", lambda: now[0])
    return now


def test_lines_tell_speed_and_time_left_now_and_then(clock, capsys):
    with Progress("X-rays", total=10_000, done=1_000) as progress:
        for _ in range(20):
            clock[0] += 1
            progress.advance(50)
    assert capsys.readouterr().err.splitlines() == [
        "X-rays 1,500/10,000  50 a second, 0:02:50 left",
        "X-rays 2,000/10,000  50 a second, 0:02:40 left",
    ]
    assert (progress.seconds, progress.rate) == (20, 50)


@pytest.mark.parametrize(
    ("every", "lines"), [(0, ["epoch 1/2  loss 3", "epoch 2/2  loss 1"]), (None, [])]
)
def test_a_note_takes_the_place_of_the_speed(capsys, every, lines):
    with Progress("epoch", total=2, every=every) as progress:
        progress.reach(1, "loss 3")
        progress.reach(2, "loss 1")
    assert capsys.readouterr().err.splitlines() == lines


def test_a_terminal_has_a_bar_that_is_gone_in_the_end(clock, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Progress("files found", total=None) as progress:
        clock[0] += 1
        progress.reach(8_192)
        progress.say("a line")
    written = capsys.readouterr().err
    assert "files found 8,192" in written and "8,192 a second" in written
    assert "a line\n" in written and written.endswith("\x1b[2K")
