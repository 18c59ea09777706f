"""Good and bad traffic for a long time: the memory of all the service's processes must not grow.

At once, over and over: valid X-rays in every way to send one, truncated files, a PNG whose header
says 20 megapixels, wrong types, bodies that are too large, connections that send half a head or
nothing, and clients that go away amid a body. Every answer must be the one that is due, and the
memory at the end at most 5 % above that of the first minute.

    python benchmarks/soak.py [--minutes 30] [--settle 60] [--workers N]
"""

import argparse
import asyncio
import io
import os
import random
import struct
import sys
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from processes import memory_of
from service import CORES, serving

GROWTH = 0.05
# Of each kind so many at once.
GOOD, BAD, GONE = 6, 6, 4
DEADLINE_S = 120


def png_of(size):
    """Return a PNG whose header says `size` x `size` pixels, and that holds few of them."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(bytes(9000))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in parts)


def request(path, body, kind):
    """Return the bytes of a POST."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def form(*files):
    """Return a multipart body and its type."""
    part = b'--b\r\nContent-Disposition: form-data; name="xray"; filename="a"\r\n\r\n%s\r\n'
    return b"".join(part % each for each in files) + b"--b--\r\n", "multipart/form-data; boundary=b"


def traffic():
    """Return requests that are due a 200, those due another status, and those to explain.

    Each is (bytes, status).
    """
    from PIL import Image

    from toolkit.xray.synthetic import generate

    files = []
    for number, xray in enumerate(generate(12, seed=1)):
        stream = io.BytesIO()
        # Originals are larger than what the network sees.
        picture = Image.fromarray(xray.pixels).resize((224 * (1 + number % 4),) * 2)
        picture.save(stream, ("PNG", "JPEG")[number % 2])
        files.append(stream.getvalue())
    raw = "application/octet-stream"
    good = [(request("/predict", each, raw), 200) for each in files]
    good += [(request("/predict", *form(each)), 200) for each in files[:4]]
    good += [
        (request("/predict_batch", *form(*files[:6], files[0][:900], b"no image")), 200),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    ]
    bad = [(request("/predict", each[: len(each) // 2], raw), 422) for each in files]
    bad += [
        (request("/predict", png_of(5000), raw), 422),
        (request("/predict", b"certainly no image" * 50, raw), 415),
        (request("/predict", b'{"xray": "http://a/b"}', "application/json"), 415),
        (request("/predict", *form()), 422),
        (request("/predict", png_of(10), raw), 422),
        (request("/v2/models/model_saved/infer", b"{}" * 999, "application/json"), 400),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", 415),
        (request("/nowhere", b"x" * 2_000_000, raw), 404),
        (b"\x16\x03\x01 this is no HTTP\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000, 431),
    ]
    # They take long, and give way to all others: one client asks for them.
    explanations = [(request("/explain", each, raw), 200) for each in files[:2]]
    return good, bad, [*explanations, (request("/explain", png_of(10), raw), 422)]


async def status_of(address, content, connection=None):
    """Send a request, on a connection that is kept if there is one; return the status and it."""
    reader, writer = connection or await asyncio.open_connection(*address)
    writer.write(content)
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head[:-4].split(b"\r\n")[1:])
    await reader.readexactly(int(fields[b"content-length"]))
    return int(head[9:12]), (reader, writer)


async def asking(address, requests, until, outcomes, keeps):
    """Send requests of one kind, and count what does not come back as it is due."""
    connection = None
    while monotonic() < until:
        content, due = random.choice(requests)
        try:
            async with asyncio.timeout(DEADLINE_S):
                status, connection = await status_of(address, content, connection)
            outcomes["as due" if status == due else f"{status} for {due}"] += 1
        except (OSError, EOFError, TimeoutError) as error:
            outcomes[f"{type(error).__name__} for {due}"] += 1
            connection = None
        if connection and not keeps:
            connection[1].close()
            connection = None
    if connection:
        connection[1].close()


async def going(address, requests, until, outcomes):
    """Be a client that goes away amid its request, at once or after a while."""
    while monotonic() < until:
        content, _ = random.choice(requests)
        with suppress(OSError):
            _, writer = await asyncio.open_connection(*address)
            writer.write(content[: random.randrange(len(content))])
            await asyncio.sleep(random.choice((0, 0.05, 1, 15)))
            writer.transport.abort()
            outcomes["gone"] += 1


async def warmed(address, requests, workers):
    """Let every worker open what it opens when it is first asked for."""
    connections = [await asyncio.open_connection(*address) for _ in range(workers)]
    for content, _ in requests:
        await asyncio.gather(*[status_of(address, content, each) for each in connections])
    for _, writer in connections:
        writer.close()


async def soaked(address, seconds, settle, pid, workers):
    """Return the memory after `settle` seconds and at the end, and what came of the requests."""
    good, bad, explanations = traffic()
    await warmed(address, [explanations[0], *good], workers)
    until, outcomes = monotonic() + seconds, Counter()
    tasks = [asking(address, good, until, outcomes, True) for _ in range(GOOD)]
    tasks += [asking(address, bad, until, outcomes, False) for _ in range(BAD)]
    tasks.append(asking(address, explanations, until, outcomes, True))
    tasks += [going(address, good, until, outcomes) for _ in range(GONE)]
    whole = asyncio.gather(*tasks)
    await asyncio.sleep(settle)
    before = memory_of(pid)
    while not whole.done():
        await asyncio.wait([whole], timeout=60)
        print(f"{memory_of(pid):.0f} MB, {dict(outcomes)}", file=sys.stderr)
    await whole
    return before, memory_of(pid), outcomes


def main():
    """Soak, and say whether it held."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--settle", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--workers", type=int, default=CORES)
    options = parser.parse_args()
    random.seed(0)
    os.environ["OMP_NUM_THREADS"] = "1"
    with TemporaryDirectory() as home:
        with serving("toolkit", options.workers, Path(home)) as (process, url):
            host, port = url.removeprefix("http://").split(":")
            seconds = 60 * options.minutes
            before, after, outcomes = asyncio.run(
                soaked((host, int(port)), seconds, options.settle, process.pid, options.workers)
            )
        failures = (Path(home) / "log").read_text().count("Traceback")
    growth = after / before - 1
    print(f"{before:.0f} MB, then {after:.0f} MB: {growth:+.1%}; {dict(outcomes)}")
    wrong = set(outcomes) - {"as due", "gone"}
    if wrong or failures or growth > GROWTH:
        raise SystemExit(f"it did not hold: {sorted(wrong)}, {failures} tracebacks, {growth:+.1%}")


if __name__ == "__main__":
    main()
