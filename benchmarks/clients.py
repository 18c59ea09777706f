"""Clients of a service, in a process of their own: they ask, and count what is right.

    python clients.py URL FOLDER --clients 16 --seconds 10 [--processes 4] [--form] [--heedless]
    python clients.py URL FOLDER --slow 200

FOLDER holds JPEG files, and `classes.json` with the class that each must be given. Every client
keeps its connection and sends the next file when it has its answer; on a 503 it waits for as long
as `Retry-After` says, unless it is `--heedless`. Slow clients send a byte a second, half of them
not even a whole head, and begin again when they are cut off.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import re
import resource
from collections import Counter
from itertools import count
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)


class Tally:
    """What came of the requests that were answered within the time that counts."""

    def __init__(self, start, end):
        self.start, self.end = start, end
        self.outcomes = Counter()
        self.good, self.refused = [], []

    def add(self, outcome, begun):
        """Count an answer: `good`, `wrong`, a status, or `lost`."""
        now = perf_counter()
        if not self.start <= now <= self.end:
            return
        self.outcomes[outcome] += 1
        if outcome == "good":
            self.good.append(now - begun)
        elif outcome == "503":
            self.refused.append(now - begun)


class Client(asyncio.Protocol):
    """One kept connection."""

    def __init__(self, requests, number, tally, heedless):
        self.requests, self.number, self.tally = requests, number, tally
        self.heedless = heedless
        self.received = b""
        self.begun = perf_counter()
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        """Ask."""
        self.transport = transport
        self.ask()

    def ask(self):
        """Send the next file."""
        if perf_counter() > self.tally.end:
            self.transport.close()
            return
        self.number += 1
        request, self.expected = self.requests[self.number % len(self.requests)]
        self.begun = perf_counter()
        self.transport.write(request)

    def data_received(self, data):
        """Read an answer, count it, and ask again."""
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end or len(body) < int(_LENGTH.search(head)[1]):
            return
        self.received = b""
        status = head[9:12].decode()
        if status == "200":
            self.tally.add("good" if class_in(body) == self.expected else "wrong", self.begun)
        else:
            self.tally.add(status, self.begun)
        wait = _RETRY.search(head)
        if status == "503" and wait and not self.heedless:
            # Not all at the same moment.
            seconds = int(wait[1]) * random.uniform(1, 1.2)
            asyncio.get_running_loop().call_later(seconds, self.ask)
        else:
            self.ask()

    def connection_lost(self, _):
        """Count what was lost."""
        if perf_counter() < self.tally.end:
            self.tally.add("lost", self.begun)
        self.ended.set_result(None)


def class_in(body):
    """Return the class that an answer names; a batch service's answer is a list of one."""
    said = json.loads(body)
    return (said[0] if isinstance(said, list) else said)["class"]


def requests_of(folder, host, form):
    """Return (bytes of a request, class that is right) of each file."""
    classes = json.loads((folder / "classes.json").read_text())
    found = []
    for name, expected in classes.items():
        body, kind = (folder / name).read_bytes(), "image/jpeg"
        if form:
            kind = "multipart/form-data; boundary=boundary"
            part = (
                '--boundary\r\nContent-Disposition: form-data; name="xray"; filename="xray.jpg"'
                "\r\nContent-Type: image/jpeg\r\n\r\n"
            )
            body = part.encode() + body + b"\r\n--boundary--\r\n"
        head = (
            f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        found.append((head.encode() + body, expected))
    return found


async def asking(address, requests, tally, number, heedless):
    """Be one client, on a new connection where one is lost."""
    loop = asyncio.get_running_loop()
    while perf_counter() < tally.end:
        try:
            _, client = await loop.create_connection(
                lambda: Client(requests, number, tally, heedless), *address
            )
        except OSError:
            tally.add("lost", perf_counter())
            await asyncio.sleep(0.1)
            continue
        rest = tally.end - perf_counter() + 5
        await asyncio.wait([client.ended], timeout=rest)


async def load(address, requests, clients, seconds, heedless):
    """Return what came of it, after a quarter of the time that does not count."""
    start = perf_counter() + seconds / 4
    tally = Tally(start, start + seconds)
    await asyncio.gather(
        *[asking(address, requests, tally, 7 * each, heedless) for each in range(clients)]
    )
    return tally


async def slow(address, request, number):
    """Be one slow client for ever."""
    # Every other one does not come to the end of its head.
    sent = request[: 40 if number % 2 else request.index(b"\r\n\r\n") + 4]
    while True:
        writer = None
        try:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(sent)
            gone = asyncio.create_task(reader.read())
            for place in count(len(sent)):
                await asyncio.wait([gone], timeout=1)
                if gone.done():
                    break
                writer.write(request[place : place + 1])
        except OSError:
            await asyncio.sleep(1)
        finally:
            if writer:
                writer.close()


async def run(options, clients):
    """Return what came of that many clients, and the share of the machine that they took."""
    where = urlsplit(options.url)
    address = where.hostname, where.port
    requests = requests_of(options.folder, where.netloc, options.form)
    if options.slow:
        await asyncio.gather(*[slow(address, requests[0][0], each) for each in range(options.slow)])
    begun, before = perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    tally = await load(address, requests, clients, options.seconds, options.heedless)
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return tally, used / (perf_counter() - begun) / len(os.sched_getaffinity(0))


def one_of_several(options, clients):
    """Be one process of clients."""
    return uvloop.run(run(options, clients))


def told(seconds, several):
    """Print what came of all processes as JSON."""
    tallies = [tally for tally, _ in several]
    outcomes = sum((tally.outcomes for tally in tallies), Counter())
    good = [each for tally in tallies for each in tally.good]
    refused = [each for tally in tallies for each in tally.refused]
    print(
        json.dumps(
            {
                "goodput": outcomes["good"] / seconds,
                "outcomes": outcomes,
                "p50": quantile(good, 0.5),
                "p99": quantile(good, 0.99),
                "refused_p99": quantile(refused, 0.99),
                "processor": sum(share for _, share in several),
            }
        )
    )


def quantile(values, share):
    """Return a quantile of times in milliseconds; None where there are none."""
    return 1000 * sorted(values)[int(share * (len(values) - 1))] if values else None


def main():
    """Read the options and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--processes", type=int, default=1, help="that share the clients")
    parser.add_argument("--form", action="store_true", help="the file in a form, field xray")
    parser.add_argument("--heedless", action="store_true", help="ask again at once after a 503")
    parser.add_argument("--slow", type=int, default=0, help="slow clients, until it is killed")
    options = parser.parse_args()
    count = min(options.processes, options.clients)
    clients = [len(range(place, options.clients, count)) for place in range(count)]
    with multiprocessing.get_context("spawn").Pool(count) as processes:
        told(options.seconds, processes.starmap(one_of_several, [(options, n) for n in clients]))


if __name__ == "__main__":
    main()
