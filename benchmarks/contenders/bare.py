"""The bound: processes that do nothing but decode the same files and run the model.

    python bare.py FOLDER WORKERS SECONDS [--decode]

With `--decode` they do not run the model either: that is the bound where a card does.
"""

import sys
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

from model import Model

from toolkit.xray.reading import decode


def work(folder, seconds, decodes, begin, counts):
    """Be one process; put the X-rays a second that it came to."""
    do = decode if decodes else _classify()
    files = [each.read_bytes() for each in sorted(Path(folder).glob("*.jpg"))]
    do(files[0])
    begin.wait()
    start, count = perf_counter(), 0
    for each in cycle(files):
        do(each)
        count += 1
        if (taken := perf_counter() - start) > seconds:
            break
    counts.put(count / taken)


def _classify():
    model = Model()
    return lambda content: model.of_files([content])


def main():
    """Print the X-rays a second of all processes."""
    folder, workers, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    decodes = "--decode" in sys.argv
    context = get_context("spawn")
    begin, counts = context.Barrier(workers), context.Queue()
    processes = [
        context.Process(target=work, args=(folder, seconds, decodes, begin, counts))
        for _ in range(workers)
    ]
    for each in processes:
        each.start()
    print(sum(counts.get(timeout=120) for _ in processes))
    for each in processes:
        each.join()


if __name__ == "__main__":
    main()
