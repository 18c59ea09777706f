"""The service beside its peers, in one run: goodput, latency, overload, slow clients, memory.

All run the shipped model, one row of them in int8, on the same drawn X-rays, JPEG files of about
8 kB, with as many processes and as many threads: bare processes that only decode and run it, which
is the bound, this service, a stock BentoML batch service, LitServe, and FastAPI (`contenders/`).
They are measured in turn, each alone on the machine but for the clients, which are a process of
their own and take their share of the same cores. Goodput counts only answers 200 with the right
class, that of fp32. Ratios are taken within a round; the tables hold medians of rounds.

    python benchmarks/service.py [--seconds 10] [--rounds 5] [--workers N] [--write]
    python benchmarks/service.py --card h200 [--seconds 5] [--rounds 3] [--workers N]

LitServe and FastAPI are no dependencies of the toolkit: what is missing is installed into
`build/peers`, which nothing else looks into. `--write` puts the tables and the picture into
`docs/service.md` and `docs/service.svg`.

With `--card` a stand-in takes the place of a card, which answers in that card's times and takes no
processor (`card.py`). The bound is then processes that only decode, and the service is measured at
1 to 512 clients.
"""

import argparse
import io
import json
import os
import platform
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from urllib.request import urlopen

from processes import ended, memory_of
from service_report import written

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "saved_models"
CONTENDERS = ROOT / "benchmarks/contenders"
PEERS = ROOT / "build/peers"
CORES = len(os.sched_getaffinity(0))
CLIENTS = (16, 64, 256)
CLIMB = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
BIN = Path(sys.executable).parent
OWN = [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", "PORT"]
COMMANDS = {
    "toolkit": OWN,
    "toolkit, int8": OWN,
    "FastAPI": [
        *(sys.executable, "-m", "uvicorn", "raw_fastapi:app", "--port", "PORT"),
        *("--workers", "WORKERS", "--log-level", "warning", "--no-access-log"),
    ],
    "BentoML, stock": [
        *(BIN / "bentoml", "serve", "stock_bentoml:Stock"),
        *("--host", "127.0.0.1", "--port", "PORT"),
    ],
    "LitServe": [sys.executable, "lit_server.py", "PORT"],
}
ENVIRONMENTS = {"toolkit, int8": {"TOOLKIT_PRECISION": "int8"}}
READY = {
    "toolkit": "/metrics",
    "toolkit, int8": "/metrics",
    "FastAPI": "/docs",
    "BentoML, stock": "/readyz",
    "LitServe": "/health",
}
FORMS = ("BentoML, stock", "LitServe")


def drawn(folder):
    """Write 32 generated X-rays as JPEG files of about 8 kB, and the class of each."""
    from PIL import Image

    sys.path.append(str(CONTENDERS))
    from model import Model

    from toolkit.xray.synthetic import generate

    contents = {}
    for index, xray in enumerate(generate(32, seed=0)):
        for quality in range(95, 10, -5):
            stream = io.BytesIO()
            Image.fromarray(xray.pixels).save(stream, "JPEG", quality=quality)
            if stream.tell() <= 8500:
                break
        contents[f"{index:02d}.jpg"] = stream.getvalue()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    answers = [Model().of_files([each])[0] for each in contents.values()]
    classes = dict(zip(contents, (each["class"] for each in answers), strict=True))
    (folder / "classes.json").write_text(json.dumps(classes))
    return sum(map(len, contents.values())) / len(contents)


@cache
def peers():
    """Return the folder of the peers' packages, installed if it is not there."""
    if not PEERS.is_dir():
        print(f"installing LitServe and FastAPI into {PEERS}", file=sys.stderr)
        packages = ["litserve", "fastapi", "uvicorn[standard]"]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", PEERS]
        subprocess.run([*command, *packages], check=True)
    return PEERS


@contextmanager
def serving(name, workers, folder, **environment):
    """Yield the process and the address of a contender, once it says that it is ready.

    What else is in its environment comes last.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    names = {"PORT": port, "WORKERS": str(workers)}
    more = {"WORKERS": str(workers), "TOOLKIT_WORKERS": str(workers), "TOOLKIT_PROVIDER": "cpu"}
    if name in ("FastAPI", "LitServe"):
        more["PYTHONPATH"] = str(peers())
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [names.get(each, each) for each in COMMANDS[name]],
        cwd=ROOT if COMMANDS[name] is OWN else CONTENDERS,
        env=os.environ
        | more
        | ENVIRONMENTS.get(name, {})
        | environment
        | {"BENTOML_HOME": str(folder), "BENTOML_DO_NOT_TRACK": "true"},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 120
        while True:
            try:
                text = urlopen(url + READY[name]).read()
                if COMMANDS[name] is not OWN or f"toolkit_ready {workers}\n".encode() in text:
                    break
            except OSError:
                pass
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{name} did not start: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield process, url
    finally:
        ended(process)
        log.close()


def asked(url, folder, *options):
    """Return what clients in a process of their own came to."""
    command = [sys.executable, ROOT / "benchmarks/clients.py", url, folder, *map(str, options)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


@contextmanager
def slow_clients(url, folder, count):
    """Keep that many slow clients at it, and give them a moment to begin."""
    command = [sys.executable, ROOT / "benchmarks/clients.py", url, folder, "--slow", str(count)]
    process = subprocess.Popen(command)
    time.sleep(2)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def bound(folder, workers, seconds, *options):
    """X-rays a second of bare processes."""
    command = [sys.executable, CONTENDERS / "bare.py", folder, str(workers), str(seconds), *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def measured(name, folder, workers, seconds):
    """Start one contender, and return what it does for each number of clients."""
    form = ["--form"] if name in FORMS else []
    with TemporaryDirectory() as home, serving(name, workers, Path(home)) as (process, url):
        asked(url, folder, "--clients", 4 * workers, "--seconds", 2, *form)
        found = {"before": memory_of(process.pid)}
        for clients in CLIENTS:
            options = ("--clients", clients, "--seconds", seconds, *form)
            found[clients] = asked(url, folder, *options)
        if name == "toolkit":
            options = ("--clients", CLIENTS[-1], "--seconds", seconds, "--heedless")
            found["heedless"] = asked(url, folder, *options)
            with slow_clients(url, folder, 200):
                found["slow"] = asked(url, folder, "--clients", 16, "--seconds", seconds)
        found["after"] = memory_of(process.pid)
    return found


def climbed(url, folder, seconds, counts=CLIMB, processes=1):
    """Return what the service does for each number of clients."""
    options = ("--seconds", seconds, "--processes", processes)
    return {count: asked(url, folder, "--clients", count, *options) for count in counts}


def cliff(goodput):
    """Return the least goodput of any number of clients against the best of any smaller number.

    Args:
        goodput: right answers a second by number of clients.
    """
    counts = sorted(goodput)
    return min(
        goodput[count] / max(goodput[each] for each in counts[: place + 1])
        for place, count in enumerate(counts)
    )


def with_card(options, folder):
    """Print what the service does with a stand-in for a card, in rounds; return the medians."""
    environment = {"TOOLKIT_OWNER": "card", "CARD": options.card}
    environment["PYTHONPATH"] = str(ROOT / "benchmarks")
    rounds = []
    for number in range(options.rounds):
        print(f"round {number + 1}", file=sys.stderr)
        found = {"bound": bound(folder, options.workers, options.seconds, "--decode")}
        with (
            TemporaryDirectory() as home,
            serving("toolkit", options.workers, Path(home), **environment) as (_, url),
        ):
            asked(url, folder, "--clients", 64, "--seconds", 2)
            found |= climbed(url, folder, options.seconds)
        rounds.append(found)
    print(f"{CORES} cores, {options.workers} workers, card {options.card}; medians")
    decoded = median(each["bound"] for each in rounds)
    print(f"{'clients':>8} {'right/s':>8} {'of bound':>8} {'p50 ms':>8} {'p99 ms':>8}")
    print(f"{'decoding':>8} {decoded:8.0f} {1:8.0%}")
    for count in CLIMB:
        of_bound = median(each[count]["goodput"] / each["bound"] for each in rounds)
        middle = [median(each[count][key] for each in rounds) for key in ("goodput", "p50", "p99")]
        print(f"{count:8} {middle[0]:8.0f} {of_bound:8.0%} {middle[1]:8.2f} {middle[2]:8.2f}")
    goodput = {count: median(each[count]["goodput"] for each in rounds) for count in CLIMB}
    print(f"least goodput against the best of fewer clients: {cliff(goodput):.0%}")


def about(options, size):
    """Return a line on what was measured with what."""
    names = {each: version(each) for each in ("bentoml", "onnxruntime")}
    for each in ("litserve", "fastapi"):
        (found,) = peers().glob(f"{each}-*.dist-info")
        names[each] = found.name.removeprefix(f"{each}-").removesuffix(".dist-info")
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "CPU")
    packages = ", ".join(f"{name} {number}" for name, number in names.items())
    return (
        f"{CORES} cores ({model}), {options.workers} workers, JPEG files of {size / 1000:.1f} kB, "
        f"{options.rounds} rounds of {options.seconds:g} s, medians; "
        f"Python {platform.python_version()}, {packages}."
    )


def main():
    """Measure all in turn, print the tables, and write them where that is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=CORES)
    parser.add_argument("--write", action="store_true", help="into docs/service.md and .svg")
    parser.add_argument("--card", choices=["h200"], help="with a stand-in for this card")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rounds = []
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        size = drawn(folder)
        if options.card:
            with_card(options, folder)
            return
        for number in range(options.rounds):
            found = {"bound": bound(folder, options.workers, options.seconds)}
            for name in COMMANDS:
                print(f"round {number + 1}: {name}", file=sys.stderr)
                found[name] = measured(name, folder, options.workers, options.seconds)
            rounds.append(found)
    text = written(rounds, about(options, size), ROOT / "docs" if options.write else None)
    print(text)


if __name__ == "__main__":
    main()
