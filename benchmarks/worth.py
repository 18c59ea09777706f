"""What single parts of the product are worth: each switched off and on in turn.

    python benchmarks/worth.py [--only NAME] [--data DIR] [--rounds 3]

In a round the product is measured as it is, then without each of the parts (see `PARTS`), each
time in a process of its own; the machine should do nothing else. Ratios are taken within a round,
medians over the rounds. `worth` is above zero where the product is better with the part: more of a
rate or a share, less of a time or of memory. Without --data, int8 is calibrated with drawn X-rays
and compared with fp32 on them. `worth_service.py` is the service without a part.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from unittest.mock import patch

import httpx
import numpy as np
import service

# Size and number of batches for each preset, and calls of a graph for each size.
TRAININGS, CALLS = {"default": (16, 16), "study": (128, 2)}, {1: 150, 4: 40}
WORKERS, SECONDS = 2, 2


def draw(_data, folder, _part):
    """Write drawn X-rays to train on."""
    from toolkit.xray.synthetic import generate

    np.save(folder / "pixels.npy", np.stack([xray.pixels for xray in generate(256, seed=0)]))
    return {}


def train(off, folder, _part):
    """Return X-rays a second of training steps and of predictions."""
    import torch

    from toolkit.networks import default, folding
    from toolkit.train import training
    from toolkit.train.dataset import Dataset
    from toolkit.train.evaluation import predict
    from toolkit.train.recipes import recipe
    from toolkit.train.steps import optimiser
    from toolkit.xray.annotations.patients import by_name
    from toolkit.xray.labels import label_map

    def plain(network, preprocessing, xray):
        with torch.no_grad():
            image, edges = preprocessing(xray)
        return network.imagesClassifier(image), network.edgesClassifier(edges)

    if off == "folding":
        for module in (folding, default):
            patch.object(module, "features_of", plain).start()
    elif off == "product with ones":
        patch.object(folding, "_plus_map", torch.add).start()
    elif off == "mallopt":
        patch.object(training, "keep_freed", lambda: None).start()
    elif off == "Muon in float32":
        patch.object(optimiser, "Muon", torch.optim.Muon).start()
    pixels = torch.from_numpy(np.load(folder / "pixels.npy"))
    labels, names = torch.arange(len(pixels)) % 4, tuple(map(str, range(len(pixels))))
    parts = {"train": torch.arange(len(pixels))}
    patients, classes = by_name(names), label_map("study")
    dataset = Dataset(pixels, labels, names, patients, classes, "generated", "study", parts)
    found = {}
    for preset, (size, steps) in TRAININGS.items():
        chosen = recipe(preset, batch_size=size)
        run = training.Training(dataset, chosen, 0, torch.device("cpu"))
        run.indices = parts["train"][:size]
        run.advance()
        run.indices = parts["train"][: steps * size]
        start, count = time.perf_counter(), 0
        while (taken := time.perf_counter() - start) < SECONDS:
            run.advance()
            count += steps * size
        found[f"{preset}, batches of {size}: trained/s"] = count / taken
        found[f"{preset}: loss of epoch 2"] = run.history[1].train_loss
    start = time.perf_counter()
    predict(run.classifier, pixels)
    return found | {"predicted/s": len(pixels) / (time.perf_counter() - start)}


def write(data, folder, part):
    """Write the graph with and without its parts; return what each makes of the X-rays."""
    from export.benchmark.table import generated_xrays
    from export.compare.gate import gate, gate_samples
    from export.convert import precisions
    from export.convert.onnx import OPSET
    from export.convert.pipeline import load_pipeline
    from export.export import write as export
    from toolkit.model import manifest
    from toolkit.model.files import ModelFiles
    from toolkit.networks import default
    from toolkit.runtime.providers import open_session

    def logits(path, optimised=True):
        session = open_session(path, "cpu", optimised=optimised)
        batches = np.array_split(judged.pixels, len(judged.pixels) // 32)
        return np.concatenate([session.run(["logits"], {"xray": each})[0] for each in batches])

    parts = {
        "folding": [(default, "fold", lambda network, preprocessing: (network, preprocessing))],
        "correction": [(precisions, "correct", lambda *_: None)],
        "pooling first": [(precisions, "pool_first", lambda *_: None)],
    }
    files = ModelFiles(service.ROOT / "saved_models", "model_saved")
    record = manifest.load(files.manifest)
    pipeline = load_pipeline(files, record)
    judged = gate_samples(data, record) if data else generated_xrays(200).gate
    reference = logits(files.path("pipeline"))
    labels = judged.labels if data else reference.argmax(1)
    found = {}
    for off in ("", *PARTS[part][0]):
        path = folder / f"{part} {off}.onnx"
        for each in parts.get(off, []):
            patch.object(*each).start()
        export(part, pipeline, record, path, OPSET, judged)
        patch.stopall()
        found[off] = {}
        # Without VNNI a processor could saturate sums of int8 products; a graph that is not
        # optimised has them as floats, and so the classes that a processor with VNNI gives.
        for how in ("here", "unoptimised")[: 2 if part == "int8" else 1]:
            mine = logits(path, optimised=how == "here")
            result = gate(reference, mine, labels, record.labels.classes)
            found[off][f"share of fp32's classes, {how}"] = result.agreement
            if data:
                right = float((mine.argmax(1) == labels).mean())
                found[off][f"share of right classes, {how}"] = right
                found[off][f"failures at the gate, {how}"] = len(result.failures)
    np.save(folder / "xrays.npy", judged.pixels[:32])
    return found


def run_graph(off, folder, part):
    """Return the milliseconds that an X-ray takes a graph with one thread."""
    from toolkit.runtime.providers import open_session

    session = open_session(folder / f"{part} {off}.onnx", "cpu", 1)
    xrays, found = np.load(folder / "xrays.npy"), {}
    for size, calls in CALLS.items():
        times = []
        for each in range(calls + 5):
            start = time.perf_counter()
            session.run(["probabilities"], {"xray": xrays[each % 16 :][:size]})
            times.append(time.perf_counter() - start)
        found[f"ms an X-ray, batches of {size}"] = 1000 * median(times[5:]) / size
    return found


def draw_files(_data, folder, _part):
    """Write X-rays as JPEG files."""
    service.drawn(folder)
    return {}


def load(url, folder, clients, seconds=SECONDS):
    """Return what so many clients got."""
    got = service.asked(url, folder, "--clients", clients, "--seconds", seconds)
    assert not got["outcomes"].get("wrong"), got
    found = {"right/s": got["goodput"], "p50, ms": got["p50"], "p99, ms": got["p99"]}
    return {f"{clients} clients: {name}": value for name, value in found.items()}


def serve(off, folder, part):
    """Return what clients got of a service of two workers."""
    command = list(service.COMMANDS["toolkit"])
    command.insert(command.index("serve") + 1, "benchmarks.worth_service:XrayClassifier")
    with (
        TemporaryDirectory() as home,
        patch.dict(service.COMMANDS, toolkit=command),
        patch.dict(os.environ, {"WORTH_OFF": off, "OMP_NUM_THREADS": "1"}),
        service.serving("toolkit", WORKERS, Path(home)) as (_, url),
    ):
        load(url, folder, 8, 0.5)
        if part == "turns":
            with batches(url, folder) as answered:
                return load(url, folder, 8) | {"in batches: right/s": len(answered) / SECONDS}
        return load(url, folder, 16) | load(url, folder, 64)


@contextmanager
def batches(url, folder):
    """Keep two senders of 32 X-rays a request at it; yield the list of what they are answered."""
    files = [("xray", each.read_bytes()) for each in sorted(folder.glob("*.jpg"))]
    over, answered = threading.Event(), []

    def send():
        while not over.is_set():
            answer = httpx.post(f"{url}/predict_batch", files=files, timeout=60)
            results = answer.raise_for_status().json()["results"]
            answered.extend(each["prediction"] for each in results if not over.is_set())

    with ThreadPoolExecutor(2) as senders:
        sent = [senders.submit(send) for _ in range(2)]
        yield answered
        over.set()
        for each in sent:
            each.result()


# Of each what it is measured without, what prepares it, and what measures it.
PARTS = {
    "training": (("folding", "product with ones", "mallopt", "Muon in float32"), draw, train),
    "pipeline": (("folding",), write, run_graph),
    "int8": (("correction", "pooling first"), write, run_graph),
    "acceptor": (("acceptor",), draw_files, serve),
    "queue": (("own queue", "running together"), draw_files, serve),
    "turns": (("turns",), draw_files, serve),
}


def measured(part, data, rounds):
    """Yield what came of every figure of a part, by what it was measured without."""
    without = PARTS[part][0]
    with TemporaryDirectory() as folder:

        def alone(*arguments):
            command = [sys.executable, __file__, "--only", part, *data, "--alone", folder]
            done = subprocess.run([*command, *arguments], check=True, stdout=subprocess.PIPE)
            return json.loads(done.stdout)

        judged, found = alone(), []
        for number in range(rounds):
            print(f"{part}: round {number + 1}", file=sys.stderr)
            found.append({off: alone("--off", off) | judged.get(off, {}) for off in ("", *without)})
    for off in without:
        for figure in found[0][off]:
            pairs = [(each[""][figure], each[off][figure]) for each in found]
            yield {"part": part, "off": off, "figure": figure} | compared(figure, pairs)


def compared(figure, pairs):
    """Return medians of pairs of a figure, with and without, and of what their ratios come to."""
    more = figure.startswith("share") or figure.endswith("/s")
    ratios = [(a / b if more else b / a) - 1 for a, b in pairs if a and b]
    middle = [median(each or 0 for each in side) for side in zip(*pairs, strict=True)]
    names = ("with", "without", "worth", "least", "most")
    ends = (median(ratios), min(ratios), max(ratios)) if ratios else (None,) * 3
    return dict(zip(names, (*middle, *ends), strict=True))


def main():
    """Measure what is asked for, and print a table and the same as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--data", type=Path, help="a folder of graded X-rays")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--off", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        _, prepare, measure = PARTS[options.only]
        given = (options.alone, options.only)
        found = (
            prepare(options.data, *given) if options.off is None else measure(options.off, *given)
        )
        print(json.dumps(found))
        return
    data = ["--data", str(options.data.resolve())] if options.data else []
    parts = [options.only] if options.only else PARTS
    rows = []
    for row in (row for part in parts for row in measured(part, data, options.rounds)):
        if not rows:
            print(f"| {' | '.join(row)} |\n|{'---|' * len(row)}")
        rows.append(row)
        *names, with_it, without = list(row.values())[:5]
        shares = ["" if each is None else f"{each:+.1%}" for each in list(row.values())[5:]]
        cells = [*names, f"{with_it:.4g}", f"{without:.4g}", *shares]
        print(f"| {' | '.join(cells)} |", flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
