"""A stand-in for a card, in the place of the process that owns one.

    TOOLKIT_OWNER=card PYTHONPATH=benchmarks CARD=h200 bentoml serve

It answers in the times that were measured on the card, and takes no processor for it: what it says
of an X-ray was computed when it first came. `benchmarks/service.py --card h200` serves with it.
"""

import os
import time
from pathlib import Path

import numpy as np

from bento import owner
from toolkit.runtime.engine import SIZES, Engine, open_engine

# Of one H200: sizes of a batch and milliseconds from X-rays in memory to outputs in memory, as
# `docs/gpu.md` has them.
TIMES = {"h200": {1: 0.34, 8: 0.58, 32: 1.17, 128: 3.51}}
_MOST_KNOWN = 10_000


class StandIn(Engine):
    """Fixed sizes like a card's, each in its time.

    Args:
        engine: what computes an X-ray when it first comes.
        milliseconds: of some sizes; between them it is interpolated.
    """

    def __init__(self, engine, milliseconds):
        super().__init__(engine.provider, engine.shapes, engine.words)
        self.sizes = SIZES
        times = np.interp(SIZES, list(milliseconds), list(milliseconds.values()))
        self._seconds = dict(zip(SIZES, times / 1000, strict=True))
        self._engine = engine
        self._known = {}

    def run(self, names, xrays):
        """Return some outputs of X-rays."""
        begun = time.perf_counter()
        rows = [self._outputs(xray) for xray in xrays]
        found = {name: np.stack([row[name] for row in rows]) for name in names}
        taken = sum(self._seconds[size] for size, _ in self.batches(len(xrays)))
        time.sleep(max(0.0, begun + taken - time.perf_counter()))
        return found

    def _outputs(self, xray):
        # Two rows tell drawn X-rays apart, and cost nothing.
        key = xray[100].tobytes() + xray[120].tobytes()
        if key not in self._known:
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            found = self._engine.run(self._engine.outputs, np.array(xray)[None])
            self._known[key] = {name: value[0] for name, value in found.items()}
        return self._known[key]


def opened(path: Path, _provider: str, threads: int) -> Engine:
    """Open the stand-in for the card that CARD names."""
    return StandIn(open_engine(path, "cpu", threads), TIMES[os.environ["CARD"]])


if __name__ == "__main__":
    owner.main(opened)
