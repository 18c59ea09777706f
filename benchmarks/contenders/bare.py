"""The bound: processes that do nothing but decode the same files and run the model.

python bare.py FOLDER WORKERS SECONDS
"""

import sys
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

from model import Model


def work(folder, seconds, begin, counts):
    """Be one process; put the X-rays a second that it came to."""
    model = Model()
    files = [each.read_bytes() for each in sorted(Path(folder).glob("*.jpg"))]
    model.of_files(files[:1])
    begin.wait()
    start, count = perf_counter(), 0
    for each in cycle(files):
        model.of_files([each])
        count += 1
        if (taken := perf_counter() - start) > seconds:
            break
    counts.put(count / taken)


def main():
    """Print the X-rays a second of all processes."""
    folder, workers, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    context = get_context("spawn")
    begin, counts = context.Barrier(workers), context.Queue()
    processes = [
        context.Process(target=work, args=(folder, seconds, begin, counts)) for _ in range(workers)
    ]
    for each in processes:
        each.start()
    print(sum(counts.get(timeout=120) for _ in processes))
    for each in processes:
        each.join()


if __name__ == "__main__":
    main()
