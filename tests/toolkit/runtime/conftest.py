"""A session on the CPU, X-rays, and what it makes of them, for whatever runs them otherwise."""

import numpy as np
import pytest

from toolkit.runtime.engine import AnySize
from toolkit.runtime.providers import open_session
from toolkit.xray.synthetic import generate

NAMES = ("logits", "edge_map")


@pytest.fixture(scope="module")
def session(small_files):
    return open_session(small_files.path("pipeline"), "cpu", 1)


@pytest.fixture(scope="module")
def xrays():
    return np.stack([each.pixels for each in generate(12, seed=9)])


@pytest.fixture(scope="module")
def expected(session, xrays):
    return AnySize(session).run(NAMES, xrays)
