"""`segment` on a folder, against calling `segment()` in a plain loop; memory over many images; start with a listing.

    python benchmarks/folder.py                        1000 generated JPEGs, the embedded models
    python benchmarks/folder.py --images 200 --rounds 3
    python benchmarks/folder.py --memory 5000          memory of the command while it runs
    python benchmarks/folder.py --names 100000         seconds until the first of so many names is segmented

The plain loop is what a user would write: `model.segment(path, classes).save(folder)` for each file. A second one
writes the same files as `segment` instead: label images, and overlays as JPEG. Labels are compared. All ways run in
turn, each in a process of its own, with whatever threads PyTorch takes.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.cpu import processor  # noqa: E402
from datasets import scenes  # noqa: E402
from proxyclip.runtime import main_guard  # noqa: E402

HEIGHT, WIDTH, DIFFERENT = 375, 500, 50  # so many different files; the others are links to them
CLASSES = ", ".join(scenes.CLASSES)
LOOP = """
import sys
from pathlib import Path
import proxyclip
folder, out, classes, formats = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(", "), sys.argv[4]
out.mkdir()
model = proxyclip.load("mini", device="cpu")
for path in sorted(folder.glob("*.jpg")):
    result = model.segment(path, classes)
    if formats == "save":
        result.save(out, path.stem)
    else:
        result.label_image().save(out / f"{path.stem}_labels.png")
        result.overlay().save(out / f"{path.stem}_overlay.jpg", quality=92)
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--processes", nargs="*", type=int, default=[], help="also with so many processes")
    parser.add_argument("--memory", type=int, metavar="IMAGES")
    parser.add_argument("--names", type=int, metavar="N")
    return parser.parse_args()


@main_guard
def main() -> None:
    options = parse()
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {date.today()}")
    with tempfile.TemporaryDirectory() as scratch:
        if options.memory:
            memory(Path(scratch), options.memory)
        elif options.names:
            start(Path(scratch), options.names)
        else:
            compare(Path(scratch), options)


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


def compare(scratch: Path, options) -> None:
    images, out = generate(scratch / "images", options.images), scratch / "out"
    loop = [sys.executable, "-c", LOOP, str(images), str(scratch / "loop"), CLASSES]
    ways = {"a loop with save()": [*loop, "save"], "a loop, same files": [*loop, "same"]}
    ways["segment"] = command(images, out)
    ways |= {f"segment --processes {n}": command(images, out, "--processes", str(n)) for n in options.processes}
    seconds = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way, arguments in ways.items():
            shutil.rmtree(scratch / "loop" if way.startswith("a loop") else out, ignore_errors=True)
            started = time.perf_counter()
            subprocess.run(arguments, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds[way].append(time.perf_counter() - started)
            if not way.startswith("a loop"):
                check(scratch / "loop", out / "labels", options.images)
    ours = statistics.median(seconds["segment"])
    for way, values in seconds.items():
        middle = statistics.median(values)
        each = ", ".join(f"{value:.1f}" for value in values)
        speed = f"{options.images / middle:5.1f} images/s"
        print(f"{way:<24} {speed}, segment is {middle / ours:.2f} times as fast  (seconds: {each})")


def command(images, out, *more) -> list[str]:
    return [
        sys.executable,
        "segment.py",
        str(images),
        "--classes",
        CLASSES,
        "--out",
        str(out),
        "--device",
        "cpu",
        *more,
    ]


def check(loop: Path, labels: Path, count: int) -> None:
    """Both wrote the same labels, but for nearly tied pixels: which images share a batch changes the last bits."""
    names = sorted(path.name for path in labels.glob("*.png"))
    assert len(names) == count, f"{len(names)} of {count} images were segmented"
    files = ((loop / f"{Path(name).stem}_labels.png", labels / name) for name in names[:DIFFERENT])
    pairs = ([np.asarray(Image.open(file)) for file in pair] for pair in files)
    differing = np.mean([np.not_equal(*pair).mean() for pair in pairs])
    assert differing < 1e-5, f"{100 * differing:.4f} % of the labels differ"


def memory(scratch: Path, count: int) -> None:
    """The memory of all processes of the command together, over time."""
    images = generate(scratch / "images", count)
    run = subprocess.Popen(
        command(images, scratch / "out"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    tenth, seen = count // 10, []
    while run.poll() is None:
        done = (
            len(list((scratch / "out" / "overlays").glob("[0-9]*"))) if (scratch / "out" / "overlays").exists() else 0
        )
        if (len(seen) + 1) * tenth <= done < count:  # processes end with the last image
            seen.append(own_memory(run.pid))
            print(f"{done:>6} images: {seen[-1] / 2**20:.0f} MiB", flush=True)
        time.sleep(0.2)
    print(f"growth from one tenth to nine: {(seen[-1] - seen[0]) / 2**20:+.0f} MiB")


def own_memory(pid: int) -> int:
    """Bytes that a process and its children hold for themselves."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:  # it has just ended
            continue
        if pid in (int(lines["Pid"]), int(lines["PPid"])) and "RssAnon" in lines:
            total += 1024 * int(lines["RssAnon"].split()[0])
    return total


def start(scratch: Path, count: int) -> None:
    images = generate(scratch / "images", DIFFERENT)
    listing = scratch / "list.txt"
    real = [str(images / f"{index:06d}.jpg") for index in range(DIFFERENT)]
    listing.write_text("\n".join([*real, *(f"{images}/{index:07d}.jpg" for index in range(count - DIFFERENT))]))
    started = time.perf_counter()
    run = subprocess.Popen(
        command(listing, scratch / "out", "--processes", "1"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not any((scratch / "out").rglob("*.png")):
        assert run.poll() is None
        time.sleep(0.02)
    print(f"{count} names: {time.perf_counter() - started:.1f} s until the first image is written")
    run.kill()
    run.wait()


if __name__ == "__main__":
    main()
