"""Evaluation throughput: data loading alone, the model alone, and both together; and memory over many images.

    python benchmarks/eval_throughput.py                             the paper's models, with random weights
    python benchmarks/eval_throughput.py --method maskclip           a faster method
    python benchmarks/eval_throughput.py --pretend 40 --images 400   a model that only sleeps, as if waiting for a GPU
    python benchmarks/eval_throughput.py --memory 5000               memory over 5000 images, without a model

Images are generated: JPEGs of 500×375 pixels with labels of 21 classes, as in Pascal VOC. A model on the CPU shares the
cores with the workers.
"""

import argparse
import os
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the repository's own packages, also when proxyclip is not installed

from benchmarks.generated import photograph  # noqa: E402
from configs.cfg_voc21 import config  # noqa: E402
from proxyclip.images import resize, scaled_size  # noqa: E402
from proxyclip.runtime import main_guard  # noqa: E402

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
        photograph(random, (HEIGHT, WIDTH)).save(image, quality=92)
        blocks = random.integers(0, 21, (8, 10)).astype(np.uint8)
        palette = Image.fromarray(np.kron(blocks, np.ones((47, 50), np.uint8))[:HEIGHT, :WIDTH])
        palette.putpalette(random.integers(0, 256, 768, np.uint8).tobytes())
        palette.save(label)
    return config.data.open(root)


def resized(image: np.ndarray) -> np.ndarray:
    return resize(image, scaled_size(*image.shape[:2], 336))  # as ProxyCLIP does on Pascal VOC


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
    from proxyclip.evaluation.counting import Settings, one_by_one
    from proxyclip.evaluation.evaluate import evaluate

    count, marks = [0], []

    def nothing(image, size, stem):
        count[0] += 1
        if count[0] % (len(samples) // 10) == 0:
            marks.append(megabytes())
            print(f"{count[0]:>6} images: {marks[-1]:7.0f} MB", flush=True)
        return np.zeros(size, np.int64)

    started = time.perf_counter()
    evaluate(one_by_one(nothing), samples, 21, resized, Settings(workers))
    speed = len(samples) / (time.perf_counter() - started)
    print(f"{speed:.1f} images/s; memory grew by {max(marks) - marks[0]:.0f} MB after the first tenth")


def throughput(samples, options) -> None:
    """Prints images/s of data loading, of the model, and of both together, as medians over interleaved rounds."""
    from proxyclip.evaluation.prefetch import read_ahead

    predict, what = model_to_measure(options)
    few = range(min(options.images, DIFFERENT))
    ready = [*read_ahead(samples, few, resized, workers=0)]
    model_alone(predict, ready, 1)  # the first call allocates
    rounds = []
    for _ in range(options.rounds):
        reading = reading_alone(samples, options.workers)
        alone = model_alone(predict, ready, options.images)
        rounds.append((reading, alone, *together(predict, samples, options)))
    reading, alone, both, start = np.median(rounds, axis=0)
    lowest, highest = np.min(rounds, axis=0), np.max(rounds, axis=0)
    for index, name, note in (
        (0, "reading alone", f"{options.workers} workers on {os.cpu_count()} cores"),
        (1, "model alone", what),
        (2, "together", f"{100 * both / min(reading, alone):.1f} % of the slower one"),
    ):
        spread = f"({lowest[index]:.2f} to {highest[index]:.2f})"
        print(f"{name + ':':<15}{np.median(rounds, axis=0)[index]:8.2f} images/s {spread:>20}, {note}")
    print(f"medians of {options.rounds} rounds; {1000 * start:.0f} ms until the first image is read are not counted")


def reading_alone(samples, workers: int) -> float:
    """Images/s after the first image."""
    from proxyclip.evaluation.prefetch import read_ahead

    stream = read_ahead(samples, range(len(samples)), resized, workers)
    next(stream)
    started = time.perf_counter()
    return sum(1 for _ in stream) / (time.perf_counter() - started)


def model_alone(predict, ready: list, count: int) -> float:
    """Images/s for images in memory."""
    started = time.perf_counter()
    for _ in predict(islice(cycle(ready), count)):
        pass
    return count / (time.perf_counter() - started)


def together(predict, samples, options) -> tuple[float, float]:
    """Images/s of a whole evaluation, from its first image to its end, and the seconds before that."""
    from proxyclip.evaluation.counting import Settings
    from proxyclip.evaluation.evaluate import evaluate

    calls = []

    def clocked(stream):
        def noted():
            for ready in stream:
                calls.append(time.perf_counter())
                yield ready

        return predict(noted())

    started = time.perf_counter()
    evaluate(clocked, samples, 21, resized, Settings(options.workers), limit=options.images)
    return options.images / (time.perf_counter() - calls[0]), calls[0] - started


def model_to_measure(options) -> tuple:
    """From a stream of images to their labels, and its description."""
    import torch

    import proxyclip
    from proxyclip.evaluation.counting import one_by_one
    from proxyclip.evaluation.model_run import ModelRun
    from proxyclip.vocabulary import Vocabulary

    if options.pretend:

        def wait(image, size, stem):
            """Takes 1 / pretend seconds, whatever the processor is doing meanwhile."""
            time.sleep(1 / options.pretend)
            return np.zeros(size, np.int64)

        return one_by_one(wait), "waiting only"
    models = {"clip": options.clip} | ({"vfm": options.vfm} if options.method == "proxyclip" else {})
    model = proxyclip.load(method=options.method, **models, device=options.device, templates="{}")
    run = ModelRun(model, Vocabulary.parse(config.queries), config.threshold, options.batch_windows)
    return run, f"{options.clip} on {model.device}, {torch.get_num_threads()} threads"


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4, help="images per round for the model (default: 4)")
    parser.add_argument("--reading", type=int, default=400, help="images per round for data loading (default: 400)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument("--memory", type=int, default=0, metavar="N", help="only measure memory over N images")
    parser.add_argument("--workers", type=int, default=2, help="data-loading processes (default: 2)")
    parser.add_argument("--clip", default="ViT-B-16:random")
    parser.add_argument("--vfm", default="dino-vitb8:random")
    parser.add_argument("--method", default="proxyclip", help="proxyclip (default), maskclip or clip")
    parser.add_argument("--batch-windows", type=int)
    parser.add_argument("--pretend", type=float, metavar="IMAGES/S", help="sleep instead of running a model")
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
