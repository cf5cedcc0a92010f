"""How fast an evaluation is: reading alone, the model alone, both together; and whether memory stays flat.

    python benchmarks/eval_throughput.py                             the paper's models, with random weights
    python benchmarks/eval_throughput.py --attention value           a faster one
    python benchmarks/eval_throughput.py --pretend 40 --images 400   a model that only waits, as one does for a GPU
    python benchmarks/eval_throughput.py --memory 5000               no model; memory over that many images

Photographs are generated: JPEGs of 500×375 pixels with labels of 21 classes, as Pascal VOC has them.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import deque
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the repository's own packages, also when proxyclip is not installed

from configs.cfg_voc21 import config  # noqa: E402
from proxyclip.errors import main_guard  # noqa: E402

HEIGHT, WIDTH, DIFFERENT = 375, 500, 50  # so many different files, then their names repeat as links


def generate(root: Path, count: int):
    """The folder of `count` images and labels in the layout of Pascal VOC."""
    random, split = np.random.default_rng(0), config.data.splits["val"]
    folder = root / config.data.folder
    stems = [f"{index:06d}" for index in range(count)]
    for pattern in (split.images, split.labels, split.listing):
        (folder / pattern).parent.mkdir(parents=True, exist_ok=True)
    (folder / split.listing).write_text("\n".join(stems))
    for index, stem in enumerate(stems):
        image, label = (folder / pattern.format(stem) for pattern in (split.images, split.labels))
        if index >= DIFFERENT:
            for path, pattern in ((image, split.images), (label, split.labels)):
                path.symlink_to(folder / pattern.format(stems[index % DIFFERENT]))
            continue
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8)).resize((WIDTH, HEIGHT), 3)
        noise = random.normal(0, 12, (HEIGHT, WIDTH, 3))
        Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)).save(image, quality=92)
        blocks = random.integers(0, 21, (8, 10)).astype(np.uint8)
        palette = Image.fromarray(np.kron(blocks, np.ones((47, 50), np.uint8))[:HEIGHT, :WIDTH])
        palette.putpalette(random.integers(0, 256, 768, np.uint8).tobytes())
        palette.save(label)
    return config.data.open(root)


def timed(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def megabytes() -> float:
    """Resident memory of this process and its workers, 10^6 bytes."""
    own, total = os.getpid(), 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:  # it has ended
            continue
        if own in (int(fields["Pid"]), int(fields["PPid"])) and "VmRSS" in fields:
            total += int(fields["VmRSS"].split()[0]) * 1024
    return total / 1e6


def memory(samples, workers: int) -> None:
    """Prints the memory after every tenth of the images, with a model that does nothing."""
    from proxyclip.evaluation import Settings, evaluate

    count, marks = [0], []

    def nothing(picture, size):
        count[0] += 1
        if count[0] % (len(samples) // 10) == 0:
            marks.append(megabytes())
            print(f"{count[0]:>6} images: {marks[-1]:7.0f} MB", flush=True)
        return np.zeros(size, np.int64)

    seconds = timed(lambda: evaluate(nothing, samples, 21, config.short_side, Settings(workers)))
    print(f"{len(samples) / seconds:.1f} images/s; memory grew by {marks[-1] - marks[0]:.0f} MB after the first tenth")


def throughput(samples, options) -> None:
    """Prints images/s of reading, of the model, and of both."""
    from proxyclip.evaluation import Settings, evaluate
    from proxyclip.images import to_tensor
    from proxyclip.reading import read_ahead

    everything = range(len(samples))
    stream = read_ahead(samples, everything, config.short_side, options.workers)
    reading = len(samples) / timed(lambda: deque(stream, maxlen=0))
    print(f"reading alone, {options.workers} workers: {reading:8.2f} images/s on {os.cpu_count()} cores", flush=True)

    predict, what = model_to_measure(options)
    ready = list(islice(read_ahead(samples, everything[: options.images], config.short_side, 0), options.images))
    predict(to_tensor(ready[0].picture), ready[0].label.shape)  # the first call allocates

    def alone():
        for item in ready:
            predict(to_tensor(item.picture), item.label.shape)

    def together():
        evaluate(predict, samples, 21, config.short_side, Settings(options.workers), limit=options.images)

    model_speed = options.images / timed(alone)
    print(f"model alone:              {model_speed:8.2f} images/s, {what}", flush=True)
    both = options.images / timed(together)
    share = 100 * both / min(reading, model_speed)
    print(f"together:                 {both:8.2f} images/s, {share:.1f} % of the slower one")


def model_to_measure(options) -> tuple:
    """A function from a picture to labels, and what it is."""
    import torch

    import proxyclip
    from proxyclip.evaluation import predictor

    if options.pretend:

        def wait(picture, size):
            """Takes 1 / pretend seconds, whatever the processor is doing meanwhile."""
            time.sleep(1 / options.pretend)
            return np.zeros(size, np.int64)

        return wait, "waiting only"
    model = proxyclip.load(
        clip=options.clip, vfm=options.vfm, attention=options.attention, device=options.device, templates="{}"
    )
    predict = predictor(model, config.queries, config.threshold, options.batch_windows)
    return predict, f"{options.clip} on {model.device}, {torch.get_num_threads()} threads"


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16, help="images for the model (default: 16)")
    parser.add_argument("--reading", type=int, default=400, help="images for reading alone (default: 400)")
    parser.add_argument("--memory", type=int, default=0, help="only measure memory, over so many images")
    parser.add_argument("--workers", type=int, default=2, help="processes that read (default: 2)")
    parser.add_argument("--clip", default="ViT-B-16:random")
    parser.add_argument("--vfm", default="dino-vitb8:random")
    parser.add_argument("--attention", default="proxy")
    parser.add_argument("--batch-windows", type=int)
    parser.add_argument("--pretend", type=float, metavar="IMAGES/S", help="no model: wait as long as such a one takes")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = generate(Path(folder), options.memory or max(options.reading, options.images))
        if options.memory:
            memory(samples, options.workers)
        else:
            throughput(samples, options)


if __name__ == "__main__":
    main()
