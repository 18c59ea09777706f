"""What the figures are held against."""

import pytest


@pytest.fixture(scope="session")
def oracle():
    """The metrics of scikit-learn, which takes seconds to import."""
    import sklearn.metrics

    return sklearn.metrics
