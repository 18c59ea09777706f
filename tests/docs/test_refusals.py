"""The pages on files say what is refused, and no more than that."""

import ast
import re
from pathlib import Path

from toolkit.xray import limits

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/howto/dicom.md"
# Of other files than DICOM.
PICTURES = {"animated", "cmyk", "sixteen_bit_colour", "unsupported_mode"}


def raised(folder):
    """The codes of all refusals that the code of a folder makes."""
    calls = (
        node
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ImageError"
    )
    first = (call.args[0] for call in calls)
    return {argument.value for argument in first if isinstance(argument, ast.Constant)}


def test_the_table_of_refusals_is_complete_and_has_no_other():
    rows = re.findall(r"^\| (`.*?`) \|", PAGE.read_text(), re.MULTILINE)
    told = re.findall(r"`(\w+)`", " ".join(rows))
    assert len(told) == len(set(told))
    assert set(told) == raised(ROOT / "toolkit/xray") - PICTURES
    assert raised(ROOT / "toolkit/xray") > PICTURES


def test_the_limits_in_the_text_are_those_of_the_code():
    text = PAGE.read_text()
    assert f"at least {limits.MIN_SIDE} pixels a side" in text
    assert f"at most {limits.MAX_PIXELS // 1_000_000} megapixels" in text
    assert f"at most {limits.MAX_BYTES // 1_000_000} MB" in text
    assert f"that is {limits.MAX_BYTES // 2_000_000} megapixels" in text
    assert limits.MAX_ASPECT == 3 / 2 and "more elongated than 3:2" in text
    assert "whole leg is read" not in text
