"""`segment` on a folder, compared with calling `segment()` in a plain loop: time and memory.

    python benchmarks/folder.py                         350 generated JPEGs of 500 × 375 pixels, the embedded models
    python benchmarks/folder.py --images 700 --processes 1 2

The loop is what a user would write: `model.segment(path, classes).save(folder)` for each file. All ways run in turn, in
processes of their own, the start included; their labels are compared. Memory is what a command and its processes hold
for themselves (Linux), from a tenth to nine tenths of its time.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measure import machine, row, table
from datasets import scenes

HEIGHT, WIDTH, DIFFERENT = 375, 500, 50  # so many different files; the others are links to them
CLASSES = ", ".join(scenes.CLASSES)
LOOP = """
import sys
from pathlib import Path
import proxyclip
images, out, classes = sys.argv[1:]
model = proxyclip.load("mini", device="cpu")
for path in sorted(Path(images).glob("*.jpg")):
    model.segment(path, classes.split(", ")).save(out, path.stem)
"""


def generate(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        path = folder / f"{index:06d}.jpg"
        if index < DIFFERENT:
            image, _ = scenes.draw(index, WIDTH)  # (WIDTH, WIDTH, 3)
            Image.fromarray(np.ascontiguousarray(image[:HEIGHT])).save(path, quality=92)
        else:
            path.symlink_to(folder / f"{index % DIFFERENT:06d}.jpg")
    return folder


def watch(command: list[str], out: Path) -> dict:
    """Runs a command: seconds until its first file, and in all; MiB of memory in the middle of its time."""
    shutil.rmtree(out, ignore_errors=True)
    started, first, memory = time.perf_counter(), None, []
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if first is None and out.is_dir() and any(out.rglob("*.png")):
            first = time.perf_counter() - started
        memory.append(own_memory(process.pid))
        time.sleep(0.5 if first else 0.05)
    assert process.returncode == 0, f"{command} ended with exit code {process.returncode}"
    seconds, edge = time.perf_counter() - started, len(memory) // 10
    return {"seconds": seconds, "first": first or seconds, "memory": memory[edge : len(memory) - edge]}


def own_memory(pid: int) -> float:
    """MiB that a process and its children hold for themselves."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:  # it has just ended
            continue
        if pid in (int(lines["Pid"]), int(lines["PPid"])) and "RssAnon" in lines:
            total += int(lines["RssAnon"].split()[0])
    return total / 1024


def check_labels(loop: Path, labels: Path, count: int) -> None:
    """Both folders hold the same labels but for nearly tied pixels: a batch of another size changes the last bits."""
    files = sorted(labels.glob("*.png"))
    assert len(files) == count, f"{len(files)} of {count} images were segmented"
    for file in files[:DIFFERENT]:
        maps = [np.asarray(Image.open(one)) for one in (file, loop / f"{file.stem}_labels.png")]
        assert np.not_equal(*maps).mean() < 1e-4, f"labels of {file.name} differ"


def compare(options, scratch: Path) -> None:
    images, outs = generate(scratch / "images", options.images), {"loop": scratch / "loop"}
    commands = {"loop": [sys.executable, "-c", LOOP, str(images), str(outs["loop"]), CLASSES]}
    for count in [0, *options.processes]:
        way = f"segment --processes {count}" if count else "segment"
        outs[way] = scratch / way
        commands[way] = [sys.executable, "segment.py", str(images), "--classes", CLASSES, "--out", str(outs[way])]
        commands[way] += ["--device", "cpu", *(["--processes", str(count)] if count else [])]
    results = {way: [] for way in commands}
    for _ in range(options.rounds):
        for way, command in commands.items():
            results[way].append(watch(command, outs[way]))
            if way != "loop":
                check_labels(outs["loop"], outs[way] / "labels", options.images)
    print(table(["", "images/s", "speed", "first image", "memory"], []))
    loop = statistics.median(one["seconds"] for one in results["loop"])
    for way, rounds in results.items():
        seconds, begun = (statistics.median(one[name] for one in rounds) for name in ("seconds", "first"))
        memory = [value for one in rounds for value in one["memory"]]
        span = f"{min(memory):.0f} to {max(memory):.0f} MiB"
        print(row([way, f"{options.images / seconds:.1f}", f"{loop / seconds:.2f}×", f"{begun:.1f} s", span]))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=350)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--processes", nargs="*", type=int, default=[], help="also with so many processes")
    options = parser.parse_args(arguments)
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as scratch:
        compare(options, Path(scratch))


if __name__ == "__main__":
    main()
