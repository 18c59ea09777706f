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
PROJECTED_CORES = (2, 32, 256)
LIMITS = (
    ("1 Gbit/s network", "bytes", 117e6),
    ("10 Gbit/s network", "bytes", 1.17e9),
    ("one NVMe disk, 3 GB/s", "bytes", 3e9),
    ("one hard disk, 150 random reads a second", "opens", 150),
    ("file server, 10,000 opens a second", "opens", 10_000),
    ("the supervisor of the local engine, one core", "supervised", 1.0),
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
    """Fill `folder` with `count` files: links to those of `data`, over and over, or drawn ones."""
    sources = sorted(each for each in data.rglob("*") if each.is_file()) if data else drawn(folder)
    xrays = folder / "xrays"
    xrays.mkdir()
    copies = {}
    for index, source in enumerate(islice(cycle(sources), count)):
        if source not in copies or index % 60_000 == 0:
            copies[source] = xrays / f"{index:07d}{source.suffix}"
            copies[source].write_bytes(source.read_bytes())
        else:
            os.link(copies[source], xrays / f"{index:07d}{source.suffix}")
    return xrays


def drawn(folder):
    """Write 200 generated X-rays as PNG files."""
    from PIL import Image

    from toolkit.synthetic import generate

    (folder / "drawn").mkdir()
    paths = [folder / "drawn" / f"{index:03d}.png" for index in range(200)]
    for path, xray in zip(paths, generate(200, seed=0), strict=True):
        Image.fromarray(xray.pixels).save(path)
    return paths


def bare(folder, index, batch):
    """Be one bare process: judge every file that is its own."""
    import numpy as np

    from bento.session import open_model
    from toolkit.images import read

    predictor = open_model(MODELS, "model_saved", "cpu", threads=1)
    paths = sorted(Path(folder).iterdir())[index::CORES]
    for start in range(0, len(paths), batch):
        predictor.predict(np.stack([read(path) for path in paths[start : start + batch]]))


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
    print("| way | X-rays a second | against bare processes |\n|---|---|---|")
    for way, rates in found.items():
        ratio = median(rate / base for rate, base in zip(rates, first, strict=True))
        print(f"| {way} | {median(rates):.1f} | {ratio:.1%} |")


def project(folder, files, many):
    """Print what an X-ray costs, and what many would."""
    part = folder.parent / "part"
    part.mkdir()
    for each in islice(sorted(folder.iterdir()), files // 5):
        os.link(each, part / each.name)
    small = toolkit(part, folder.parent / "small.parquet")
    large = toolkit(folder, folder.parent / "large.parquet")
    more = large["files"] - small["files"]

    def slope(name):
        return (large[name] - small[name]) / more

    size = sum(each.stat().st_size for each in folder.iterdir()) / files
    row = (folder.parent / "large.parquet").stat().st_size / files
    start = time.perf_counter()
    listed = sum(1 for _ in os.scandir(folder)) / (time.perf_counter() - start)
    cost = slope("workers") + slope("supervisor")
    rate = 1 / slope("seconds") / CORES
    print(f"Of {files} X-rays on {CORES} cores, each more costs:\n")
    print("| | an X-ray | " + f"{many:,} X-rays |\n|---|---|---|")
    print(f"| processor | {cost * 1e3:.2f} ms | {cost * many / 3600:.1f} core-hours |")
    supervised = slope("supervisor")
    print(
        f"| of it the supervisor | {supervised * 1e6:.0f} us | {supervised * many / 60:.0f} min |"
    )
    print(f"| read | {size / 1e3:.1f} kB | {size * many / 1e9:,.0f} GB |")
    print(
        f"| written, as parts and as one file | {2 * row:.0f} B | {2 * row * many / 1e9:.1f} GB |"
    )
    print(f"| opened files | 1 | {many:,} |")
    print(f"| listed, {listed:,.0f} a second | {1e6 / listed:.1f} us | {many / listed:.0f} s |")
    print("\n| cores | wall time | X-rays and opened files a second | read | written |")
    print("|---|---|---|---|---|")
    for cores in PROJECTED_CORES:
        each = rate * cores
        hours = many / each / 3600
        print(
            f"| {cores} | {hours:,.1f} h | {each:,.0f} | {each * size / 1e6:,.1f} MB/s | "
            f"{each * 2 * row / 1e6:.2f} MB/s |"
        )
    print("\n| what gives out | at X-rays a second | which is at cores |\n|---|---|---|")
    needs = {"bytes": size, "opens": 1, "supervised": supervised}
    for name, kind, limit in LIMITS:
        print(f"| {name} | {limit / needs[kind]:,.0f} | {limit / needs[kind] / rate:,.0f} |")


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
