"""What the toolkit promises of a GPU, measured: one command, no network, no root.

    python benchmarks/gpu.py [--data DIR] [--minutes 5] [--only engine,service] [--cpu]

It prints a table as it goes, and JSON at its end: the steps, the card, its driver, versions and
date. The exit code is 1 where a promise is not kept or a step does not end in its time. `--cpu`
puts the CPU in the card's place: then only what is promised of answers counts, not of speed.
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

from service import CLIMB, MODELS, ROOT, asked, bound, cliff, drawn, serving
from steps import Steps, at_least, at_most, heard, table, told

from toolkit.extras import versions
from toolkit.processes import cores

NAME = "model_saved"
# Of a run of 5 minutes, the seconds that each group may take at most.
LIMITS = {"engine": 60.0, "service": 120.0, "predict": 80.0, "training": 360.0}
_PACKAGES = ("toolkit", "torch", "onnxruntime", "onnxruntime-gpu", "numpy", "bentoml")


def card():
    """Return the card's name, driver and memory, as nvidia-smi says; empty where there is none."""
    if not shutil.which("nvidia-smi"):
        return {}
    query = ("name", "driver_version", "memory.total", "memory.used")
    command = ["nvidia-smi", f"--query-gpu={','.join(query)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    first = done.stdout.partition("\n")[0]
    return dict(zip(query, (each.strip() for each in first.split(",")), strict=False))


def used_gb():
    """Return how much of the card's memory is used, GB; 0 where there is no card."""
    return float(card().get("memory.used", 0)) * 2**20 / 1e9


def engine(options):
    """Yield what the engine says of X-rays, against the CPU, and how fast it is."""
    import gpu_engine

    yield from gpu_engine.steps(options, STARTED, used_gb)


def service(options):
    """Yield how soon the service is ready, what it answers to 1 to 512 clients, what it holds."""
    fast = None if options.cpu else at_most
    steps, before = Steps(), used_gb()
    workers = 2 if options.cpu else cores()
    clients = max(1, cores() // 4)
    counts = CLIMB[:4] if options.cpu else CLIMB
    seconds = 0.7 * LIMITS["service"] * options.minutes / 5 / len(counts) / 1.6
    environment = {"TOOLKIT_PROVIDER": "cuda"}
    if options.cpu:
        environment = {"TOOLKIT_PROVIDER": "cpu", "TOOLKIT_OWNER": "bento.owner"}
    with TemporaryDirectory() as home:
        folder = Path(home) / "xrays"
        folder.mkdir()
        drawn(folder)
        decoded = bound(folder, workers, min(2, seconds), "--decode")
        yield steps.step("service: processes that only decode", decoded, "X-rays/s")
        begun = time.perf_counter()
        with serving("toolkit", workers, Path(home), **environment) as (_, url):
            ready = time.perf_counter() - begun
            yield steps.step("service: ready", ready, "s", fast and at_most(15))
            found = {}
            for count in counts:
                said = ("--clients", count, "--seconds", seconds, "--processes", clients)
                found[count] = asked(url, folder, *said)
                yield _answers(steps, count, found[count], options)
            wrong = sum(each["outcomes"].get("wrong", 0) for each in found.values())
            yield steps.step("service: wrong answers", wrong, "answers", at_most(0))
            yield steps.step(
                "service: one client, p50", found[1]["p50"], "ms", fast and at_most(1.6)
            )
            if 64 in found:
                tail = found[64]["p99"] / found[64]["p50"]
                yield steps.step("service: 64 clients, p99 against p50", tail, "times", at_most(3))
            goodput = {count: each["goodput"] for count, each in found.items()}
            least = cliff(goodput)
            yield steps.step(
                "service: least against fewer clients", least, "share", fast and at_least(0.9)
            )
            share = _padding(url)
            yield steps.step("service: run besides, to fill batches", share, "share")
            if not options.cpu:
                yield steps.step(
                    "service: memory of the card", used_gb() - before, "GB", at_most(2)
                )


def _answers(steps, count, found, options):
    promise = at_least(10_000) if count == 256 and not options.cpu else None
    return steps.step(f"service: {count} clients", found["goodput"], "right/s", promise)


def _padding(url):
    """Return how many X-rays were run besides, for each that was asked for."""
    lines = urlopen(f"{url}/metrics").read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return float(values["toolkit_padding_total"]) / float(values["toolkit_batch_size_sum"])


def predict(options):
    """Yield how many X-rays a second `predict --out` reads and grades, and how many are decoded."""
    steps = Steps()
    workers = 2 if options.cpu else cores()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "drawn"
        folder.mkdir()
        drawn(folder)
        decoded = bound(folder, workers, 0.5 if options.cpu else 3, "--decode")
        yield steps.step("predict: processes that only decode", decoded, "X-rays/s")
        few, many = (32, 352) if options.cpu else (4096, int(4096 + 3 * decoded))
        took = [_graded(folder, Path(temporary), count, workers, options) for count in (few, many)]
        # What all runs need to begin is in both.
        rate = (many - few) / (took[1] - took[0])
        yield steps.step("predict: X-rays graded", rate, "X-rays/s")
        promise = None if options.cpu else at_least(0.8)
        yield steps.step("predict: against decoding alone", rate / decoded, "share", promise)


def _graded(drawn_folder, temporary, count, workers, options):
    """Return the seconds that `toolkit predict --out` takes for so many files."""
    folder = temporary / f"{count}"
    folder.mkdir()
    sources = sorted(drawn_folder.glob("*.jpg"))
    for place in range(count):
        os.link(sources[place % len(sources)], folder / f"{place:06d}.jpg")
    out = temporary / f"{count}.parquet"
    begin = "from toolkit.cli import main; main()"
    if options.cpu:
        begin = f"import toolkit.batch.local as local; local.OWNED = ('cpu',); {begin}"
    command = [sys.executable, "-c", begin, "predict", NAME]
    command += [str(folder), "--out", str(out), "--workers", str(workers), "--models", str(MODELS)]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if options.cpu else {}
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | hidden)
    return time.perf_counter() - begun


def training(options):
    """Yield what training and tuning take, where this machine has PyTorch."""
    if importlib.util.find_spec("gpu_training") is None:
        return
    import gpu_training

    yield from gpu_training.steps(options)


GROUPS = {"engine": engine, "service": service, "predict": predict, "training": training}


def main():
    """Measure, print, and exit 1 where a promise is not kept."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, help="graded X-rays; else they are drawn")
    parser.add_argument("--minutes", type=float, default=5, help="about as long as it may take")
    parser.add_argument("--only", default=",".join(GROUPS), help="groups of steps, with commas")
    parser.add_argument("--cpu", action="store_true", help="the CPU in the card's place")
    parser.add_argument("--group", choices=GROUPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.group:
        told(GROUPS[options.group](options))
        return
    about = card()
    if not about and not options.cpu:
        raise SystemExit("no card: nvidia-smi is not there or names none; --cpu does without")
    whole = table(all_groups(options), lambda line: print(line, flush=True))
    content = {
        "card": about,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": cores(),
        "versions": {"python": platform.python_version()} | versions(*_PACKAGES),
        "steps": [asdict(each) for each in whole],
    }
    print(json.dumps(content, indent=2))
    sys.exit(any(each.held is False for each in whole))


def all_groups(options):
    """Yield the steps of all groups, each in a process of its own that has its time."""
    given = [sys.executable, __file__, "--minutes", str(options.minutes)]
    given += ["--cpu"] * options.cpu
    given += ["--data", str(options.data)] if options.data else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    # A Python of its own finds the toolkit where this one does.
    paths = [str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    for name in options.only.split(","):
        limit = max(60.0, LIMITS[name] * options.minutes / 5)
        yield from heard(name, [*given, "--group", name], limit, env=environment)


STARTED = time.perf_counter()

if __name__ == "__main__":
    main()
