"""Every test here is of `make test-full`: it tries what an attacker tried, on real processes."""

from pathlib import Path

import pytest

from toolkit.xray.pictures import encode
from toolkit.xray.synthetic import generate


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.full)


@pytest.fixture(scope="session")
def pngs():
    """Eight X-rays as PNG files."""
    return [encode(each.pixels) for each in generate(8, seed=5)]
