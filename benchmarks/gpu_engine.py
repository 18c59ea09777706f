"""What the engine promises on a card: its answers are the CPU's, in every size that it runs."""

import time

import numpy as np
from service import MODELS
from steps import Steps, at_least, at_most

from toolkit.runtime.engine import SIZES, FixedSizes, open_engine, open_fixed_sizes
from toolkit.runtime.graphs import GRAPH_OPTIONS, Graphs
from toolkit.runtime.providers import NO_TF32, PROVIDERS, open_session
from toolkit.xray.reading import read_xray
from toolkit.xray.synthetic import generate

NAME = "model_saved"


def xrays_of(data, count):
    """Return X-rays, uint8 (N, 224, 224): those of a folder, or drawn ones."""
    if data is None:
        return np.stack([each.pixels for each in generate(count, seed=5)])
    paths = sorted(path for path in data.rglob("*") if path.suffix in (".jpg", ".png"))
    step = max(1, len(paths) // count)
    return np.stack([read_xray(path) for path in paths[::step][:count]])


def steps(options, started, used_gb):
    """Yield what the engine says of X-rays, against the CPU, and how fast it is.

    Args:
        options: of the command line.
        started: when this process began, by `time.perf_counter`.
        used_gb: returns how much of the card's memory is used.
    """
    taken, before = Steps(), used_gb()
    path = MODELS / f"{NAME}.pipeline.onnx"
    provider = "cpu" if options.cpu else "cuda"
    fast, exact = open_fixed_sizes(path, provider), open_engine(path, "cpu")
    assert fast.provider == PROVIDERS[provider], f"{fast.provider} runs in the place of {provider}"
    sizes = SIZES[:4] if options.cpu else SIZES
    xrays = xrays_of(options.data, sizes[-1])
    for size in sizes:
        fast.run(fast.outputs, np.resize(xrays, (size, *xrays.shape[1:])))
    yield taken.step("engine: every size ready", time.perf_counter() - started, "s")
    names = ["logits", "edge_map"]
    whole = exact.run(names, xrays)
    apart, edges = 0.0, 0
    for size in (*sizes, 3, 5):
        found = fast.run(names, xrays[:size])
        count = len(found["logits"])
        apart = max(apart, float(np.abs(found["logits"] - whole["logits"][:count]).max()))
        edges += int((found["edge_map"] != whole["edge_map"][:count]).any(axis=(1, 2)).sum())
    yield taken.step("engine: logits against the CPU", apart, "apart", at_most(1e-4))
    yield taken.step("engine: edge maps unlike the CPU's", edges, "X-rays", at_most(0))
    wanted = ["probabilities", "novelty"]
    alone = {}
    for size in sizes:
        batch = np.resize(xrays, (size, *xrays.shape[1:]))
        alone[size] = _milliseconds(lambda batch=batch: fast.run(wanted, batch), options)
        yield taken.step(f"engine: a batch of {size}", np.median(alone[size]), "ms")
    most = sizes[-1]
    rate = 1000 * most / np.median(alone[most])
    yield taken.step(f"engine: in batches of {most}", rate, "X-rays/s")
    yield taken.step(
        "engine: sizes by chance against alone", _by_chance(fast, wanted, xrays, alone), "times"
    )
    if not options.cpu:
        yield taken.step("engine: memory of the card", used_gb() - before, "GB", at_most(2))
    yield from _others(taken, provider, options, xrays, whole["logits"].argmax(axis=1), sizes)


def _others(taken, provider, options, xrays, expected, sizes):
    """Yield how fast another precision and layout are, and whether they find the same classes."""
    path, half = (MODELS / f"{NAME}{kind}.pipeline.onnx" for kind in ("", ".fp16"))
    others = {
        "fp16": open_fixed_sizes(half, provider),
        "channels last": _channels_last(path, provider, sizes),
        "fp16, channels last": _channels_last(half, provider, sizes),
    }
    most = sizes[-1]
    batch = np.resize(xrays, (most, *xrays.shape[1:]))
    for name, other in others.items():
        took = _milliseconds(
            lambda other=other: other.run(["probabilities", "novelty"], batch), options
        )
        rate = 1000 * most / np.median(took)
        yield taken.step(f"engine: {name}, in batches of {most}", rate, "X-rays/s")
        classes = other.run(["logits"], xrays)["logits"].argmax(axis=1)
        alike = float((classes == expected).mean())
        yield taken.step(f"engine: {name}, classes alike", alike, "share", at_least(0.99))


def _channels_last(path, provider, sizes):
    """Return an engine whose convolutions keep the channels of a pixel together, on CUDA."""
    layout = {**NO_TF32, **GRAPH_OPTIONS, "prefer_nhwc": "1"}
    session = open_session(path, provider, cuda=layout)
    return FixedSizes(session, Graphs(session, sizes[-1], provider), sizes=sizes)


def _milliseconds(function, options):
    took = []
    end = time.perf_counter() + 0.01 * options.minutes * 60 / 5
    while time.perf_counter() < end or len(took) < 5:
        begun = time.perf_counter()
        function()
        took.append(1000 * (time.perf_counter() - begun))
    return took


def _by_chance(fast, names, xrays, alone):
    """Return how much longer batches take whose size changes each time, all in all."""
    order = np.random.default_rng(0).permutation(np.repeat(list(alone), 20))
    begun = time.perf_counter()
    for size in order:
        fast.run(names, np.resize(xrays, (size, *xrays.shape[1:])))
    resized = time.perf_counter()
    for size in order:
        np.resize(xrays, (size, *xrays.shape[1:]))
    copying = time.perf_counter() - resized
    expected = sum(np.median(alone[size]) for size in order) / 1000
    return (resized - begun - copying) / expected
