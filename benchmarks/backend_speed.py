"""A backend of the image towers compared with PyTorch, end to end, for `benchmarks/speed.py --backend`."""

import importlib.metadata
import statistics
import time

import torch

import proxyclip
from benchmarks.cpu import processor
from benchmarks.subject import TASKS, blobs
from proxyclip.vocabulary import Vocabulary


def compare_backends(backend: str, rounds: int) -> None:
    """Prints seconds for one image of 500 × 375 pixels with 20 classes on one thread, from resizing to labels: of
    processor time and of wall time, medians over rounds, and the medians of the ratios within a round."""
    torch.set_num_threads(1)
    print(f"{processor()}, {backend} {importlib.metadata.version(backend)}")
    task = TASKS["small"]
    image, vocabulary = blobs(task), Vocabulary.parse([f"name {index}" for index in range(task.classes)])
    pair = {"clip": "ViT-B-16:random", "vfm": "dino-vitb8:random", "device": "cpu", "templates": ("a {}.",)}
    for precision in ("fp32", "bf16"):
        models = {name: proxyclip.load(**pair, precision=precision, backend=name) for name in ("torch", backend)}
        found = {name: [] for name in models}  # (seconds of processor time, seconds of wall time) of each round
        for _ in range(rounds + 1):  # the first one warms up
            for name, model in models.items():
                begun = time.process_time(), time.perf_counter()
                with torch.inference_mode():
                    model.predict(model.prepare(image), (task.height, task.width), vocabulary)
                found[name].append((time.process_time() - begun[0], time.perf_counter() - begun[1]))
        for place, clock in enumerate(("processor", "wall")):
            seconds = {name: [times[place] for times in taken[1:]] for name, taken in found.items()}
            ratio = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
            medians = ", ".join(f"{name} {statistics.median(taken):.2f} s" for name, taken in seconds.items())
            print(f"{precision}, {clock:<9} time: {medians}, {ratio:.2f}x", flush=True)
