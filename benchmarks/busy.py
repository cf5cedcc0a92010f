"""Images per second of an evaluation on an idle machine, and beside other busy processes.

    python benchmarks/busy.py                     the embedded models on 100 scenes; alone, and beside four processes
    python benchmarks/busy.py --beside 8 --images 40

The evaluation is that of eval.py, in a process of its own for every round; idle and busy rounds take turns. Its start
is not counted.
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.cpu import processor  # noqa: E402
from proxyclip.runtime import main_guard  # noqa: E402


def spin() -> None:
    while True:
        sum(range(100_000))


def rate(images: int) -> float:
    """Images/s of one evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        line = Path(folder) / "line.json"
        command = [sys.executable, str(ROOT / "eval.py"), "--config", "scenes", "--preset", "mini", "--device", "cpu"]
        command += ["--limit", str(images), "--workdir", folder, "--json", str(line)]
        subprocess.run(command, check=True, capture_output=True)
        found = json.loads(line.read_text())
    return found["images"] / found["seconds"]


def beside(count: int, images: int) -> float:
    """Images/s of one evaluation while so many processes each keep a core busy."""
    others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(count)]
    for other in others:
        other.start()
    try:
        time.sleep(0.5)
        return rate(images)
    finally:
        for other in others:
            other.kill()
            other.join()


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--beside", type=int, default=4, metavar="N")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(processor())
    pairs = [(rate(options.images), beside(options.beside, options.images)) for _ in range(options.rounds)]
    idle, busy = (statistics.median(values) for values in zip(*pairs, strict=True))
    share = statistics.median(b / a for a, b in pairs)
    print(f"alone {idle:.1f} images/s, beside {options.beside} busy processes {busy:.1f} images/s, {share:.0%}")


if __name__ == "__main__":
    main()
