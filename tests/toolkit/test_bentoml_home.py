"""Paths of the environment are the caller's, whoever begins the service."""

import os

import pytest

from toolkit import bentoml_home


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("models", "/caller/models"),
        ("../models", "/models"),
        ("/else/models", "/else/models"),
        # BentoML puts variables in their place.
        ("$HOME/models", "$HOME/models"),
    ],
)
def test_a_relative_path_is_from_the_callers_folder_and_no_other_is_touched(
    given, expected, monkeypatch
):
    names = ("TOOLKIT_MODELS", "BENTOML_CONFIG", "BENTOML_HOME")
    for name in names:
        monkeypatch.setenv(name, given)
    bentoml_home.anchor_paths("/caller")
    assert [os.environ[name] for name in names] == [expected] * 3


def test_what_is_not_named_stays_so(monkeypatch):
    monkeypatch.delenv("TOOLKIT_MODELS", raising=False)
    bentoml_home.anchor_paths("/caller")
    assert "TOOLKIT_MODELS" not in os.environ


def test_an_empty_home_is_none_and_not_the_callers_folder(monkeypatch):
    monkeypatch.setenv("BENTOML_HOME", "")
    monkeypatch.setenv("TOOLKIT_MODELS", "")
    bentoml_home.anchor_paths("/caller")
    assert "BENTOML_HOME" not in os.environ and os.environ["TOOLKIT_MODELS"] == ""
