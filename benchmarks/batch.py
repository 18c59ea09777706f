"""`toolkit predict --out` against bare processes, and what many X-rays would take.

A bare process reads a file, decodes it and runs the pipeline, one X-ray after another, with one
thread; there is one for each core, each with its share of the same files. All ways are run in
turn, each from the start of its processes to their end, and the table holds medians of rounds.
`--project` measures what an X-ray costs, as the slope between a small and a large run, and
works out how long so many would take.

    python benchmarks/batch.py [--data DIR] [--files 6000] [--rounds 5] [--batches]
    python benchmarks/batch.py --project 10000000 [--data DIR]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "saved_models"
CORES = len(os.sched_getaffinity(0))
BATCHES = (1, 4, 8, 16)
SUFFIXES = {".png", ".jpg", ".jpeg", ".dcm"}
PROJECTED_CORES = (2, 32, 256)
REFUSED = 40_000
LIMITS = (
    ("one hard disk, 150 files a second", "opened", 150),
    ("1 Gbit/s network", "read", 117e6),
    ("file server, 10,000 files opened a second", "opened", 10_000),
    ("10 Gbit/s network", "read", 1.17e9),
    ("one NVMe disk, 3 GB/s", "read", 3e9),
    ("the supervisor of the local engine, one core", "supervisor", 1.0),
)
# Prints, last, the processor seconds of the command itself; those of its workers are apart.
COMMAND = """
import resource, sys
from toolkit import cli
try:
    cli.main()
finally:
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        print(used.ru_utime + used.ru_stime, file=sys.stderr)
"""


def populated(folder, data, count):
    """Fill `folder` with `count` files: those of `data`, or drawn ones, over and over.

    Each has its number after its end, where no decoder looks, so that no two hashes are equal.
    """
    given = data.rglob("*") if data else drawn(folder)
    # A table may lie beside the X-rays.
    sources = sorted(each for each in given if each.suffix in SUFFIXES)
    xrays = folder / "xrays"
    xrays.mkdir()
    for index, source in enumerate(islice(cycle(sources), count)):
        content = source.read_bytes() + index.to_bytes(8)
        (xrays / f"{index:07d}{source.suffix}").write_bytes(content)
    return xrays


def drawn(folder):
    """Write 200 generated X-rays as PNG files."""
    from PIL import Image

    from toolkit.xray.synthetic import generate

    (folder / "drawn").mkdir()
    paths = [folder / "drawn" / f"{index:03d}.png" for index in range(200)]
    for path, xray in zip(paths, generate(200, seed=0), strict=True):
        Image.fromarray(xray.pixels).save(path)
    return paths


def bare(folder, index, batch):
    """Be one bare process: judge every file that is its own."""
    import numpy as np

    from toolkit.runtime.session import open_model
    from toolkit.xray.reading import read_xray

    predictor = open_model(MODELS, "model_saved", "cpu", threads=1)
    paths = sorted(Path(folder).iterdir())[index::CORES]
    for start in range(0, len(paths), batch):
        predictor.predict(np.stack([read_xray(path) for path in paths[start : start + batch]]))


def bare_rate(folder, files, batch=1):
    """X-rays a second of bare processes, one for each core."""
    start = time.perf_counter()
    command = [sys.executable, __file__, "--bare", str(folder)]
    processes = [subprocess.Popen([*command, str(index), str(batch)]) for index in range(CORES)]
    if any(process.wait() for process in processes):
        raise SystemExit("a bare process failed")
    return files / (time.perf_counter() - start)


def toolkit(folder, out):
    """Run the command; return its JSON with seconds of all and of processors."""
    start = time.perf_counter()
    done = subprocess.run(
        [
            *(sys.executable, "-c", COMMAND, "predict", "model_saved", folder),
            *("--out", out, "--json", "--models", MODELS),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    supervisor, workers = map(float, done.stderr.split()[-2:])
    content = json.loads(done.stdout)
    return content | {
        "whole": time.perf_counter() - start,
        "supervisor": supervisor,
        "workers": workers,
    }


def compare(folder, files, rounds, batches):
    """Print all ways side by side."""
    found = {f"bare processes, batches of {each}": [] for each in (BATCHES if batches else (1,))}
    found |= {"toolkit predict --out": [], "the same, with start, listing and joining": []}
    for number in range(rounds):
        for way, batch in zip(found, BATCHES if batches else (1,), strict=False):
            found[way].append(bare_rate(folder, files, batch))
        done = toolkit(folder, folder.parent / f"{number}.parquet")
        found["toolkit predict --out"].append(done["per_second"])
        found["the same, with start, listing and joining"].append(files / done["whole"])
    first = next(iter(found.values()))
    print(f"{files} X-rays, {CORES} cores, medians of {rounds} rounds\n")
    show("way", "X-rays a second", "against bare processes", line=True)
    for way, rates in found.items():
        ratio = median(rate / base for rate, base in zip(rates, first, strict=True))
        show(way, f"{median(rates):.1f}", f"{ratio:.1%}")


def costs(folder, files):
    """What one X-ray more costs: seconds of processors and of the supervisor's, and bytes."""
    part = folder.parent / "part"
    part.mkdir()
    for each in islice(sorted(folder.iterdir()), files // 5):
        os.link(each, part / each.name)
    small = toolkit(part, folder.parent / "small.parquet")
    large = toolkit(folder, folder.parent / "large.parquet")
    more = large["files"] - small["files"]
    workers, seconds = ((large[name] - small[name]) / more for name in ("workers", "seconds"))
    # What it does for a row is little beside what it does to start: many rows, soon refused.
    refused = folder.parent / "refused"
    refused.mkdir()
    for index in range(REFUSED):
        (refused / f"{index:07d}.png").write_bytes(b"")
    rows = toolkit(refused, folder.parent / "refused.parquet")
    supervisor = (rows["supervisor"] - small["supervisor"]) / (REFUSED - small["files"])
    start = time.perf_counter()
    listed = sum(1 for _ in os.scandir(folder))
    processor = workers + supervisor
    return {
        "processor": processor,
        "busy": processor / (seconds * CORES),
        "supervisor": supervisor,
        "listing": (time.perf_counter() - start) / listed,
        "read": sum(each.stat().st_size for each in folder.iterdir()) / files,
        # As a part, and again in the one file.
        "written": 2 * (folder.parent / "large.parquet").stat().st_size / files,
        "opened": 1,
    }


def project(folder, files, many):
    """Print what an X-ray costs, and what many would."""
    cost = costs(folder, files)
    rate = 1 / cost["processor"]
    show("", "an X-ray", f"{many:,} X-rays", line=True)
    core_hours = cost["processor"] * many / 3600
    show("processor", f"{cost['processor'] * 1e3:.2f} ms", f"{core_hours:.1f} core-hours")
    for name in ("supervisor", "listing"):
        show(f"{name}, one core", f"{cost[name] * 1e6:.1f} us", f"{cost[name] * many:,.0f} s")
    for name in ("read", "written"):
        show(f"bytes {name}", f"{cost[name]:,.0f}", f"{cost[name] * many / 1e9:,.1f} GB")
    show("files opened", "1", f"{many:,}")
    print(f"\nMeasured over {files} X-rays, {cost['busy']:.0%} of {CORES} cores busy with them.\n")
    show("cores", "wall time", "X-rays, and files opened, a second", "read", "written", line=True)
    for cores in PROJECTED_CORES:
        speed = rate * cores
        moved = (f"{speed * cost[name] / 1e6:,.2f} MB/s" for name in ("read", "written"))
        show(str(cores), f"{many / speed / 3600:,.2f} h", f"{speed:,.0f}", *moved)
    print()
    show("what gives out", "at X-rays a second", "which is at cores", line=True)
    for name, of, limit in LIMITS:
        show(name, f"{limit / cost[of]:,.0f}", f"{limit / cost[of] / rate:,.0f}")


def show(*cells, line=False):
    """Print a row of a Markdown table; the first has a line below it."""
    print(f"| {' | '.join(cells)} |")
    if line:
        print("|---" * len(cells) + "|")


def main():
    """Compare, or project."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, help="any folder of X-rays; else drawn ones")
    parser.add_argument("--files", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", action="store_true", help="bare processes in batches, too")
    parser.add_argument("--project", type=int, metavar="N", help="work out what N X-rays take")
    parser.add_argument("--bare", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if options.bare:
        folder, index, batch = options.bare
        bare(folder, int(index), int(batch))
        return
    with TemporaryDirectory() as temporary:
        folder = populated(Path(temporary), options.data, options.files)
        if options.project:
            project(folder, options.files, options.project)
        else:
            compare(folder, options.files, options.rounds, options.batches)


if __name__ == "__main__":
    main()
