"""Curves of trainings laid over each other, from a table and from a log of our own."""

import csv
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from toolkit.train.tensorboard import Log
from toolkit.train.training import Epoch

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks/study_curves.py"


@pytest.fixture
def draw(tmp_path, monkeypatch, capsys):
    """Return a function that runs the script in a folder and returns the lines that it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def log(tmp_path):
    with Log(tmp_path / "log", 0) as log:
        for epoch in range(5):
            log.add_epoch(Epoch(epoch, 0.5 + epoch / 100, 2.5, 0.25, 1.5, 0.1, 3.0 + epoch))
    return tmp_path / "log"


def test_a_log_and_the_studys_table_are_on_one_picture_and_in_one_table(draw, log, shared):
    table = shared / "study" / "final_training.csv"
    head, _, *rows = draw(f"study={table}", f"ours={log}", "--every", 3)
    assert head.startswith("| epoch | study: train accuracy, % | ours: train accuracy, % | ")
    # Every third epoch and the last that both have.
    assert [row.split("|")[1].strip() for row in rows] == ["0", "3", "4"]
    with table.open() as stream:
        theirs = list(csv.DictReader(stream))[3]
    cells = dict(zip(head.split("|"), rows[1].split("|"), strict=True))
    told = {name.strip(): cell.strip() for name, cell in cells.items()}
    assert told["study: train accuracy, %"] == f"{float(theirs['train_accuracy']):.2f}"
    assert told["study: train loss, last batch"] == f"{float(theirs['train_loss']):.2f}"
    assert told["ours: train accuracy, %"] == "53.00"
    assert told["ours: train loss, last batch"] == "6.00"
    assert told["ours: train loss, mean"] == "2.50"
    with Image.open("curves.png") as picture:
        assert min(picture.size) > 300
        assert len(picture.convert("L").getcolors()) > 20


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "epoch,other\n0,1\n",
        "val_loss\n1\n",
        "epoch,val_loss\n0,x\n",
        "epoch,val_loss\n0\n",
    ],
)
def test_what_holds_no_curves_is_one_line(draw, tmp_path, content):
    if content is None:
        (tmp_path / "it").mkdir()
    else:
        (tmp_path / "it").write_text(content)
    with pytest.raises(SystemExit, match=r"^error: a=it .*: give [^\n]*$"):
        draw("a=it")


def test_what_is_not_there_is_one_line(draw):
    with pytest.raises(SystemExit, match=r"^error: a=nope cannot be read .*: give [^\n]*$"):
        draw("a=nope")
