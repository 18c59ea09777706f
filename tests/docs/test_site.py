"""The documentation builds strictly, loads nothing from elsewhere, and leaves nothing out."""

import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.main import get_command

import toolkit
from toolkit import errors
from toolkit.cli import app

ROOT = Path(__file__).resolve().parents[2]
# What makes a browser fetch something, not what a reader may click.
FETCHED = {
    ("link", "href"),
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("form", "action"),
}
ELSEWHERE = re.compile(r"^(https?:)?//")


class Page(HTMLParser):
    """What a page fetches, and the names of its anchors."""

    def __init__(self, path):
        super().__init__()
        self.fetched, self.anchors = [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors.add(found.get("id"))
        canonical = tag == "link" and found.get("rel") == "canonical"
        for name, value in found.items():
            if (tag, name) in FETCHED and not canonical:
                self.fetched.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {str(path.relative_to(site)): Page(path) for path in site.rglob("*.html")}


def command_names(command, path="toolkit"):
    children = getattr(command, "commands", {})
    if not (children and command.no_args_is_help):
        yield path
    for name, each in children.items():
        yield from command_names(each, f"{path} {name}")


@pytest.mark.full
def test_nothing_is_fetched_from_elsewhere(site, pages):
    fetched = {each for page in pages.values() for each in page.fetched}
    assert len(pages) > 15 and fetched
    assert not {each for each in fetched if ELSEWHERE.match(each)}
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet.read_text())


@pytest.mark.full
def test_every_command_is_in_the_reference_with_every_option(site, pages):
    names = set(command_names(get_command(app)))
    assert {"toolkit train", "toolkit tune report", "toolkit data generate"} <= names
    anchors = pages["reference/commands.html"].anchors
    assert {each.replace(" ", "-") for each in names} <= anchors
    text = (site / "reference/commands.html").read_text()
    for command in get_command(app).commands.values():
        for parameter in command.params:
            if parameter.name != "help" and parameter.param_type_name == "option":
                assert f"<code>{parameter.opts[0]}" in text, parameter.opts
    assert "<code>toolkit --version</code>" in text
    assert "study, five, merge01, folders, or a FILE.toml or FILE.csv" in text
    names = ("published", "study", "patient")
    assert f"One of {', '.join(f'<code>{each}</code>' for each in names)}." in text


@pytest.mark.full
def test_every_error_is_in_the_reference(pages):
    names = {
        name
        for name, each in vars(errors).items()
        if inspect.isclass(each) and issubclass(each, errors.ToolkitError)
    }
    assert len(names) > 10
    anchors = pages["reference/errors.html"].anchors
    assert {f"toolkit.errors.{name}" for name in names} <= anchors


@pytest.mark.full
def test_every_route_is_in_the_reference(site):
    from bento.http.openapi import document
    from toolkit.model.answer import Meaning

    text = (site / "reference/http.html").read_text()
    paths = document(Meaning(("a", "b")))["paths"]
    assert "/predict" in paths
    for path, methods in paths.items():
        for method in methods.keys() & {"get", "post"}:
            assert re.search(rf"<h2[^>]*>{method.upper()} {re.escape(path)}<", text), path


def test_every_variable_that_the_code_reads_is_in_the_reference():
    code = "".join(
        path.read_text()
        for package in ("bento", "export", "toolkit")
        for path in (ROOT / package).rglob("*.py")
    )
    read = set(re.findall(r"\bTOOLKIT_[A-Z]+\b", code))
    page = (ROOT / "docs/reference/environment.md").read_text()
    assert "TOOLKIT_MODEL" in read
    assert read <= set(re.findall(r"`(TOOLKIT_[A-Z]+)`", page))


@pytest.mark.full
def test_every_public_name_is_in_the_reference(pages):
    anchors = pages["reference/client.html"].anchors
    assert {f"toolkit.{name}" for name in toolkit.__all__ if name != "__version__"} <= anchors
