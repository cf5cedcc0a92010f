"""Time and memory compared with a step-by-step implementation, on full-size models with random weights.

    python benchmarks/speed.py                    three tasks, each step by step, in fp32 and in bf16 (about 10 minutes)
    python benchmarks/speed.py --tasks small      only the 500x375 image
    python benchmarks/speed.py --parts            attention and linear layers, compared with PyTorch's own kernels
    python benchmarks/speed.py --method           the training-free methods, compared with MaskCLIP; or name some
    python benchmarks/speed.py --backend openvino OpenVINO compared with PyTorch, needs pip install .[openvino]
    python benchmarks/gpu.py                      on an accelerator

Nothing is downloaded. The first line names the processor, because the ratios depend on it. All variants run in every
round, so that changes in the speed of the machine affect all of them; the ratios are medians over rounds. Random
weights do not change the time. They do change the labels: probabilities of random models are nearly tied, so bf16
changes far more pixels than with trained weights.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402

from benchmarks.backend_speed import compare_backends  # noqa: E402
from benchmarks.cpu import parts, processor, product_speed  # noqa: E402
from benchmarks.method_speed import compare_methods  # noqa: E402
from benchmarks.subject import TASKS, Subject, blobs, transformer_flop  # noqa: E402
from proxyclip.images import scaled_size  # noqa: E402
from proxyclip.methods import method_names  # noqa: E402
from proxyclip.runtime import main_guard  # noqa: E402


@dataclass
class Measurements:
    """One task in one variant: seconds of each round, in total and inside the transformers, and the labels."""

    seconds: list[float]
    inside: list[float]
    labels: torch.Tensor | None = None


WAYS = ("step by step", "engine fp32", "engine bf16")


def measure(names: list[str], subjects: dict[str, Subject], rounds: int) -> dict[tuple[str, str], Measurements]:
    """Every task in every variant, `rounds` times; tasks of one variant run in sequence."""
    found = {(name, way): Measurements([], []) for way in WAYS for name in names}
    images = {name: blobs(TASKS[name]) for name in names}
    for _ in range(rounds):
        for (name, way), one in found.items():
            subject = subjects["bf16" if way.endswith("bf16") else "fp32"]
            run = subject.step_by_step if way == "step by step" else subject.engine
            subject.transformers.seconds = 0.0
            start = time.perf_counter()
            one.labels = run(TASKS[name], images[name])
            one.seconds.append(time.perf_counter() - start)
            one.inside.append(subject.transformers.seconds)
    return found


def report(name: str, found: dict[tuple[str, str], Measurements], model) -> None:
    """The three variants of one task; ratios are medians over rounds."""
    task = TASKS[name]
    windows = model.windows.count(scaled_size(task.height, task.width, task.short_side))
    print(f"\n{name}: {task.width}x{task.height}, {task.classes} classes, {windows} windows of 336x336")
    plain = found[name, WAYS[0]]
    print(f"  {WAYS[0]:<13}{statistics.median(plain.seconds):8.2f} s")
    for way in WAYS[1:]:
        one = found[name, way]
        outside = statistics.median(1 - b / a for a, b in zip(one.seconds, one.inside, strict=True))
        changed = (one.labels != plain.labels).float().mean()
        flop = transformer_flop(model, windows) / statistics.median(one.inside) / 1e9
        print(
            f"  {way:<13}{statistics.median(one.seconds):8.2f} s   {ratio(plain, one):.2f}x"
            f"   outside the transformers {outside:.1%}   {flop:.0f} GFLOP/s in them   pixels changed {changed:.4%}"
        )


def ratio(a: Measurements, b: Measurements) -> float:
    return statistics.median(x / y for x, y in zip(a.seconds, b.seconds, strict=True))


def peak_memory(task: str, precision: str) -> float:
    """Peak resident memory in GiB of a process that segments one image."""
    command = [sys.executable, __file__, "--one", task, "--precision", precision]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def one(task: str, precision: str) -> None:
    Subject(precision).engine(TASKS[task], blobs(TASKS[task]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def compare(names: list[str], rounds: int) -> None:
    print(processor())
    speeds = {"fp32": product_speed(torch.float32), "bf16": product_speed(torch.bfloat16)}
    print("4096³ matrix product: " + ", ".join(f"{name} {speed / 1e9:.0f} GFLOP/s" for name, speed in speeds.items()))
    # Before this process grows: Linux counts a parent's memory at the start of a child as the child's own peak.
    memory = {(name, precision): peak_memory(name, precision) for name in names for precision in speeds}
    subjects = {precision: Subject(precision) for precision in speeds}
    with torch.inference_mode():
        for subject in subjects.values():
            subject.engine(TASKS["small"], blobs(TASKS["small"]))  # the first run of a process also allocates and tunes
        found = measure(names, subjects, rounds)
    for name in names:
        report(name, found, subjects["fp32"].model)
    print()
    if {"large150", "large847"} <= {*names}:
        more = ratio(found["large847", "engine fp32"], found["large150", "engine fp32"]) - 1
        print(f"847 classes cost {more:.1%} more than 150 in fp32")
    for (name, precision), peak in memory.items():
        print(f"peak memory of {name} in {precision}: {peak:.2f} GiB")


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--method", nargs="*", choices=method_names())
    parser.add_argument("--backend", choices=["openvino"])
    parser.add_argument("--one", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="fp32", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one, args.precision)
    elif args.method is not None:
        compare_methods(args.method or method_names(), args.rounds)
    elif args.backend:
        compare_backends(args.backend, args.rounds)
    elif args.parts:
        print(processor())
        parts()
    else:
        compare(args.tasks, args.rounds)


if __name__ == "__main__":
    main()
