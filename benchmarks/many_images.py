"""What a run of very many images costs besides the images: saving its progress, listing its inputs and what is left.

    python benchmarks/many_images.py --images 1000000

One save comes after 500 new images; the first one of a session also writes all that came before.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from proxyclip.evaluation.partial_counts import Counts, Progress
from proxyclip.folder.inputs import find_items
from proxyclip.folder.job import Job
from proxyclip.vocabulary import Vocabulary

CLASSES, NEW, SAVES = 150, 500, 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    count = parser.parse_args().images
    with tempfile.TemporaryDirectory() as folder:
        listing(Path(folder), count)
        save(Path(folder), count)


def save(folder: Path, count: int) -> None:
    counts = Counts(np.ones((CLASSES, CLASSES), np.int64), {f"val/image_{i:09d}": (i / 7, i / 9) for i in range(count)})
    progress, seconds = Progress(folder, {}), []
    progress.save(counts, 0)
    for number in range(SAVES):
        counts.images.update({f"new/{number}_{i}": (i / 7, i / 9) for i in range(NEW)})
        began = time.perf_counter()
        progress.save(counts, 0)
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    progress.earlier(CLASSES)
    print(f"a save of {NEW} new images beside {count}: {statistics.median(seconds) * 1000:.1f} ms")
    print(f"reading {len(counts.images)} of them: {time.perf_counter() - began:.1f} s")


def listing(folder: Path, count: int) -> None:
    path = folder / "list.txt"
    path.write_text("".join(f"data/part{i % 1000:04d}/image_{i:09d}.jpg\n" for i in range(count)))
    job = Job(None, Vocabulary.parse(["sky", "sea"]), str(folder / "out"), ("labels", "overlay"))
    began, held = time.process_time(), resident()
    items = find_items([str(path)])
    listed = time.process_time()
    todos = job.todo(items)
    left = time.process_time()
    print(f"a listing of {len(items)} paths: {listed - began:.1f} s; what is left to do: {left - listed:.1f} s")
    print(f"held after that: {(resident() - held) / len(todos):.0f} bytes per path of {len(items[0].path)} characters")


def resident() -> int:
    """Bytes of this process in memory; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
