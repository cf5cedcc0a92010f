"""How well an evaluation keeps an accelerator busy: images/s end to end, and where the rest of the time goes.

    python benchmarks/gpu.py                                          ViT-B/16 with DINO on all tasks, in bf16
    python benchmarks/gpu.py --pairs ViT-B-16+dino-vitb8 ViT-L-14+dino-vitb8 ViT-H-14+dino-vitb8 ViT-B-16+sam-vitb16
    python benchmarks/gpu.py --precisions fp32 bf16 fp16 --compile    more of everything
    python benchmarks/gpu.py --plain                                  and the step-by-step implementation
    python benchmarks/train_speed.py --device cuda                    seconds per training iteration of a head

The loop is that of eval.py: JPEG files are read by worker processes, segmented, and counted. Weights are random, which
does not change the time. The limit is what the device reaches in a large matrix product of the same precision, divided
by the operations that one image needs in the model; nothing else of the work counts as useful. Launches and waits are
those of torch.profiler for images in memory.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from proxyclip.runtime import wait_passively  # noqa: E402

wait_passively()

import torch  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import proxyclip  # noqa: E402
from benchmarks.generated import Samples  # noqa: E402
from proxyclip.backbones.precision import PRECISIONS, resolve_device  # noqa: E402
from proxyclip.evaluation.counting import Settings  # noqa: E402
from proxyclip.evaluation.evaluate import evaluate  # noqa: E402
from proxyclip.evaluation.model_run import ModelRun  # noqa: E402
from proxyclip.evaluation.prefetch import Ready  # noqa: E402
from proxyclip.evaluation.tally import DeviceTally  # noqa: E402
from proxyclip.runtime import main_guard  # noqa: E402
from proxyclip.vocabulary import Vocabulary  # noqa: E402

WAITS = ("Synchronize", "cudaMemcpy ")  # in the names of calls of the CUDA runtime


@dataclass(frozen=True)
class Task:
    """Size of the images (H, W), number of classes, short side that images are resized to."""

    size: tuple[int, int]
    classes: int
    short_side: int


TASKS = {
    "voc": Task((375, 500), 21, 336),  # two windows
    "ade150": Task((683, 1024), 150, 448),  # eight windows
    "ade847": Task((683, 1024), 847, 448),
}


def model_of(pair: str, task: Task, precision: str, device: str):
    """A model with random weights, "ViT-B-16+dino-vitb8", or that of a preset."""
    options = {"precision": precision, "device": device}
    if "+" not in pair:
        return proxyclip.load(pair, **options)
    clip, vfm = pair.split("+")
    options |= {"short_side": task.short_side, "templates": ("{}",)}
    return proxyclip.load(clip=f"{clip}:random", vfm=f"{vfm}:random", **options)


def product_speed(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, the best of a few."""
    side = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        synchronize(device)
        started = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def operations(model, text) -> float:
    """Floating-point operations of the model for one window."""
    crop = torch.rand(1, 3, model.windows.crop, model.windows.crop, device=model.device)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # some fused kernels are not counted
        model.window_scores(crop, text)  # the first call may try kernels
        with FlopCounterMode(display=False) as counter:
            model.window_scores(crop, text)
    return counter.get_total_flops()


def end_to_end(run: ModelRun, samples: Samples, workers: int) -> tuple[float, float]:
    """Images/s from the first image that is read to the last one counted, and ms of the main thread for each."""
    begun = []

    def clocked(stream):
        stream = iter(stream)
        first = next(stream)
        begun.extend((time.perf_counter(), time.thread_time()))
        return run(chain([first], stream))

    classes = len(run.vocabulary.classes)
    evaluate(clocked, samples, classes, run.model.resize, Settings(workers), stage=run.stage)
    synchronize(run.model.device)
    seconds, busy = time.perf_counter() - begun[0], time.thread_time() - begun[1]
    return len(samples) / seconds, 1000 * busy / len(samples)


def calls(run: ModelRun, samples: Samples, images: int = 8) -> tuple[float, float]:
    """Kernel launches and waits of the host for each image."""
    tally = DeviceTally(len(run.vocabulary.classes), run.model.device)

    def once() -> None:
        for ready, labels in run(map(run.stage, readies)):
            tally.add(ready, labels)

    found = [samples[index % len(samples)] for index in range(images)]
    readies = [Ready(stem, run.model.resize(image), label) for stem, image, label in found]
    once()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        once()
    counts = {event.key: event.count for event in profiled.key_averages()}
    launches = sum(count for name, count in counts.items() if "LaunchKernel" in name)
    waits = sum(count for name, count in counts.items() if any(word in f"{name} " for word in WAITS))
    return launches / images, waits / images


def plain_rate(model, text, task: Task, samples: Samples, most: int = 3) -> float:
    """Images/s of the step-by-step implementation, for images in memory."""
    import step_by_step

    images = min(most, len(samples))
    prepared = [model.prepare(samples[index][1]) for index in range(images)]
    owners = list(range(len(text)))
    synchronize(model.device)
    started = time.perf_counter()
    for image in prepared:
        parts = model.clip, model.vfm, text, owners, image, model.windows.crop, model.windows.stride
        step_by_step.segment(*parts, task.size)
    synchronize(model.device)
    return images / (time.perf_counter() - started)


def measure(pair: str, name: str, precision: str, options, folder: Path) -> None:
    """Prints one line."""
    task, device = TASKS[name], torch.device(options.device)
    model = model_of(pair, task, precision, options.device)
    limit = product_speed(device, PRECISIONS[precision])
    samples = Samples(folder, options.images, task.size, task.classes)
    vocabulary = Vocabulary.parse([f"thing {index}" for index in range(task.classes)])
    text, run = model.encode_classes(vocabulary), ModelRun(model, vocabulary)
    size = model.resize.size(*task.size)
    needed = operations(model, text) * model.windows.count(size)
    on_gpu = device.type == "cuda"
    counted = "{:.0f} launches, {:.1f} waits, ".format(*calls(run, samples)) if on_gpu else ""
    if options.compile:
        model.compile_scores()
    end_to_end(run, samples, options.workers)  # allocates, chooses kernels, compiles
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    rate, busy = end_to_end(run, samples, options.workers)
    more = f"   {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if on_gpu else ""
    more += f"   plain {plain_rate(model, text, task, samples):.1f} images/s" if options.plain else ""
    print(
        f"{pair:<22}{name:<8}{precision:<6}{rate:7.1f} images/s   {rate * needed / limit:5.1%} of the limit"
        f"   an image: {needed / 1e12:.2f} TFLOP, {counted}{busy:.1f} ms of the main thread{more}",
        flush=True,
    )


@main_guard
def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--pairs", nargs="+", default=["ViT-B-16+dino-vitb8"], metavar="CLIP+VFM")
    add("--tasks", nargs="+", choices=TASKS, default=[*TASKS])
    add("--precisions", nargs="+", choices=PRECISIONS, default=["bf16"])
    add("--images", type=int, default=400)
    add("--workers", type=int, default=8)
    add("--compile", action="store_true")
    add("--plain", action="store_true")
    add("--device", default="cuda")
    options = parser.parse_args(arguments)
    device = resolve_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else options.device
    versions = f"torch {torch.__version__}"
    print(f"{name}, {versions}, {options.images} images, {options.workers} data-loading workers")
    for pair in options.pairs:
        for task in options.tasks:
            for precision in options.precisions:
                with tempfile.TemporaryDirectory() as folder:
                    measure(pair, task, precision, options, Path(folder))


if __name__ == "__main__":
    main()
