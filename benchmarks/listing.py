"""What listing many files takes: `toolkit predict --out`'s way against os.walk with sorted names.

    python benchmarks/listing.py [--files 200000]

The files are made in a temporary folder, in one folder and in folders of a thousand; each way runs
in a process of its own, which says its time and by how much its memory grew.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

WAYS = {
    "scan": "from toolkit.batch.paths import scan; found = scan(Path(sys.argv[1]), '**/*')",
    "os.walk": "found = (os.path.join(folder, name) for folder, _, names in os.walk(sys.argv[1])"
    " for name in sorted(names))",
}
MEASURE = """
import os, resource, sys, time
from pathlib import Path
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
{}
before, start = peak(), time.monotonic()
count = sum(1 for _ in found)
print(f"{{count:,}} files, {{time.monotonic() - start:.1f}} s, {{peak() - before}} MiB")
"""

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--files", type=int, default=200_000)
count = parser.parse_args().files
for size in (count, 1000):
    with tempfile.TemporaryDirectory() as root:
        for index in range(count):
            folder = Path(root, f"{index // size:06d}")
            if index % size == 0:
                folder.mkdir()
            # In no order, as names of a folder are.
            (folder / f"{index * 7919 % 200_003:08d}-knee-xray-of-a-patient.png").touch()
        for name, way in WAYS.items():
            command = [sys.executable, "-c", MEASURE.format(way), root]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"{size:>9,} in a folder  {name:8} {done.stdout}", end="", flush=True)
