"""Seconds and memory of the engine beside the step-by-step way, on full-size models with random weights.

    python benchmarks/speed.py                    three tasks, step by step, fp32 and bf16 in turn (about 10 minutes)
    python benchmarks/speed.py --tasks small      only the 500x375 image
    python benchmarks/speed.py --parts            attention and linear layers beside PyTorch's own kernels
    python benchmarks/speed.py --device cuda      images/s for batches of 1, 4 and 16, with and without torch.compile

Nothing is downloaded. Every way runs in each round, so a machine whose speed drifts slows all of them; the ratios are
medians over rounds. Random weights make no difference to time. They do to labels: those of random models hardly
differ in probability, so the share of pixels that bf16 changes is far above that of trained ones.
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

import numpy as np  # noqa: E402
import step_by_step  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import proxyclip  # noqa: E402
from proxyclip.backbones.cpu_kernels import attend, linear  # noqa: E402
from proxyclip.errors import main_guard  # noqa: E402
from proxyclip.sliding import Decision, decide, mosaics  # noqa: E402


@dataclass(frozen=True)
class Task:
    """An image (H, W), how many classes are looked for, and what its short side is resized to."""

    height: int
    width: int
    classes: int
    short_side: int


TASKS = {
    "small": Task(375, 500, 20, 336),
    "large150": Task(683, 1024, 150, 448),
    "large847": Task(683, 1024, 847, 448),
}


class Stopwatch:
    """Adds up the seconds that some functions of a model take."""

    def __init__(self, *places):
        self.seconds = 0.0
        for owner, name in places:
            setattr(owner, name, self.timed(getattr(owner, name)))

    def timed(self, function):
        def run(*args):
            start = time.perf_counter()
            result = function(*args)
            self.seconds += time.perf_counter() - start
            return result

        return run


def image(task: Task) -> np.ndarray:
    """Smooth blobs, (H, W, 3) uint8."""
    noise = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    blobs = F.interpolate(noise, (task.height, task.width), mode="bicubic").clamp(0, 1)
    return (blobs[0].permute(1, 2, 0) * 255).byte().numpy()


class Subject:
    """The models, and the ways of segmenting that are compared; words are random unit vectors."""

    def __init__(self, precision: str = "fp32"):
        self.model = proxyclip.load(clip="ViT-B-16:random", vfm="dino-vitb8:random", precision=precision, device="cpu")
        self.transformers = Stopwatch((self.model.clip, "values"), (self.model.vfm, "forward"))

    def words(self, task: Task) -> torch.Tensor:
        words = torch.randn(task.classes, 512, generator=torch.Generator().manual_seed(1))
        return F.normalize(words, dim=1)  # (Q, E)

    def engine(self, task: Task, picture: np.ndarray) -> torch.Tensor:
        model, words = self.model, self.words(task)
        decision = Decision(torch.arange(task.classes))
        model.short_side = task.short_side
        pictures = [model.prepare(picture)]
        mosaic = next(
            mosaics(lambda crops: model.window_scores(crops, words), pictures, model.windows, model.clip.mean, 1)
        )
        return decide(mosaic, model.windows, (task.height, task.width), decision)[0]

    def step_by_step(self, task: Task, picture: np.ndarray) -> torch.Tensor:
        model = self.model
        model.short_side = task.short_side
        return step_by_step.segment(
            model.clip, model.vfm, self.words(task), list(range(task.classes)), model.prepare(picture),
            model.windows.crop, model.windows.stride, (task.height, task.width),
        )[0]  # fmt: skip


def transformer_flop(model, windows: int) -> float:
    """Floating-point operations of both transformers: 24 T D² + 4 T² D a block, twice that of a multiply-add."""

    def blocks(count, tokens, width):
        return count * (24 * tokens * width**2 + 4 * tokens**2 * width)

    side = model.windows.crop
    clip, vit = model.clip.visual, model.vfm.vit
    clip_tokens = 1 + (side // model.clip.patch_size) ** 2
    vfm_tokens = 1 + (side // model.vfm.patch_size) ** 2
    clip_flop = blocks(len(clip.transformer.resblocks) - 1, clip_tokens, clip.transformer.width)
    return windows * (clip_flop + blocks(len(vit.blocks), vfm_tokens, vit.embed_dim))


def product_speed(dtype: torch.dtype) -> float:
    """FLOP/s of a 4096³ matrix product."""
    a, b = (torch.randn(4096, 4096).to(dtype) for _ in range(2))
    return 2 * 4096**3 / min(timed(lambda: a @ b)[0] for _ in range(4))


def timed(function) -> tuple[float, object]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


@dataclass
class Measurements:
    """One task and one way: seconds of each round, in all and inside the transformers, and the labels."""

    seconds: list[float]
    inside: list[float]
    labels: torch.Tensor | None = None


WAYS = ("step by step", "engine fp32", "engine bf16")


def measure(names: list[str], subjects: dict[str, Subject], rounds: int) -> dict[tuple[str, str], Measurements]:
    """Every task in every way, one after the other, `rounds` times; tasks of one way follow each other."""
    found = {(name, way): Measurements([], []) for way in WAYS for name in names}
    pictures = {name: image(TASKS[name]) for name in names}
    for _ in range(rounds):
        for (name, way), one in found.items():
            subject = subjects["bf16" if way.endswith("bf16") else "fp32"]
            run = subject.step_by_step if way == "step by step" else subject.engine
            subject.transformers.seconds = 0.0
            start = time.perf_counter()
            one.labels = run(TASKS[name], pictures[name])
            one.seconds.append(time.perf_counter() - start)
            one.inside.append(subject.transformers.seconds)
    return found


def report(name: str, found: dict[tuple[str, str], Measurements], model) -> None:
    """The three ways of one task; ratios are medians of each round's."""
    task = TASKS[name]
    windows = model.windows.count(proxyclip.image_io.scaled_size(task.height, task.width, task.short_side))
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
    """Peak resident memory in GiB of a process that segments once."""
    command = [sys.executable, __file__, "--one", task, "--precision", precision]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def one(task: str, precision: str) -> None:
    Subject(precision).engine(TASKS[task], image(TASKS[task]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def compare(names: list[str], rounds: int) -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    speeds = {"fp32": product_speed(torch.float32), "bf16": product_speed(torch.bfloat16)}
    print("4096³ matrix product: " + ", ".join(f"{name} {speed / 1e9:.0f} GFLOP/s" for name, speed in speeds.items()))
    # Before this process grows: Linux counts a parent's memory at the start of a child as the child's own peak.
    memory = {(name, precision): peak_memory(name, precision) for name in names for precision in speeds}
    subjects = {precision: Subject(precision) for precision in speeds}
    with torch.inference_mode():
        for subject in subjects.values():
            subject.engine(TASKS["small"], image(TASKS["small"]))  # the first run of a process also allocates and tunes
        found = measure(names, subjects, rounds)
    for name in names:
        report(name, found, subjects["fp32"].model)
    print()
    if {"large150", "large847"} <= {*names}:
        more = ratio(found["large847", "engine fp32"], found["large150", "engine fp32"]) - 1
        print(f"847 classes cost {more:.1%} more than 150 in fp32")
    for (name, precision), peak in memory.items():
        print(f"peak memory of {name} in {precision}: {peak:.2f} GiB")


def parts() -> None:
    """Attention and linear layers beside PyTorch's own kernels, at the sizes of DINO-B/8 and CLIP-B/16."""
    for dtype in (torch.float32, torch.bfloat16):
        for tokens in (1765, 442):
            q, k, v = torch.randn(3, 1, 12, tokens, 64).to(dtype)
            compare_part(f"{dtype} attention, {tokens} tokens", (F.scaled_dot_product_attention, attend), (q, k, v))
            x = torch.randn(1, tokens, 768).to(dtype)
            weight, bias = torch.randn(3072, 768).to(dtype), torch.randn(3072).to(dtype)
            compare_part(f"{dtype} linear 768 -> 3072, {tokens} tokens", (F.linear, linear), (x, weight, bias))


def compare_part(name: str, functions, arguments, rounds: int = 20) -> None:
    """Medians of two functions run in turn."""
    seconds = {function: [] for function in functions}
    with torch.inference_mode():
        for _ in range(rounds):
            for function in functions:
                start = time.perf_counter()
                function(*arguments)
                seconds[function].append(time.perf_counter() - start)
    theirs, ours = (statistics.median(values) * 1e3 for values in seconds.values())
    print(f"{name:<50} PyTorch {theirs:6.1f} ms, here {ours:6.1f} ms, {theirs / ours:.2f}x")


def accelerator(device: str) -> None:
    """Images/s of a 500x375 image with 20 classes, in bf16."""
    model = proxyclip.load(clip="ViT-B-16:random", vfm="dino-vitb8:random", precision="bf16", device=device)
    picture = image(TASKS["small"])
    classes = [f"thing {index}" for index in range(20)]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bf16")
    for compiled in (False, True):
        if compiled:
            model.vfm.forward = torch.compile(model.vfm.forward)
            model.clip.values = torch.compile(model.clip.values)
        for count in (1, 4, 16):
            run = [picture] * count
            model.segment(run, classes, batch_windows=2 * count)
            took = statistics.median(timed(lambda: model.segment(run, classes))[0] for _ in range(5))  # noqa: B023
            print(f"  {count:>2} images{', compiled' if compiled else '':<10}: {count / took:.1f} images/s", flush=True)


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="fp32", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one, args.precision)
    elif args.parts:
        parts()
    elif args.device != "cpu":
        accelerator(args.device)
    else:
        compare(args.tasks, args.rounds)


if __name__ == "__main__":
    main()
