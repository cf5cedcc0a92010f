"""Images per second of CAT-Seg by number of classes, compared with a plain implementation, at full size.

    python benchmarks/cat_seg.py                                    19 to 847 classes on the CPU (about 20 minutes)
    python benchmarks/cat_seg.py --classes 19 150 --rounds 1        a few only
    python benchmarks/cat_seg.py --whole                            one view of an image instead of five
    python benchmarks/cat_seg.py --device cuda --precision bf16     on a GPU

CLIP ViT-B/16 at 384 × 384 with random weights, and the published sizes of the aggregation. An image of 640 × 640 is
seen in 2 × 2 windows of 384 × 384 and as a whole; the result is a label map of the same size. Text embeddings are
random, and computing them is not part of the time. The plain implementation (tests/step_by_step_cat_seg.py) is the same
mathematics with all classes in one batch, padding that is computed, and explicit attention matrices; its time and
memory limit it to a few classes (--plain-up-to). Both take turns within every round, so that changes in the speed of
the machine affect both; ratios are medians over rounds. Peak memory is that of a process of its own, with one image.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from proxyclip.runtime import wait_passively  # noqa: E402

wait_passively()

import step_by_step_cat_seg as slow  # noqa: E402
import tiny_cat_seg  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from benchmarks.cpu import processor  # noqa: E402
from heads import cat_seg  # noqa: E402
from proxyclip.backbones import build_clip  # noqa: E402
from proxyclip.backbones.checkpoints import fixed_seed  # noqa: E402
from proxyclip.backbones.precision import resolve_precision  # noqa: E402
from proxyclip.labels import decide_labels  # noqa: E402
from proxyclip.runtime import main_guard  # noqa: E402

SIDE = 640  # of the image
WAYS = ("plain", "here")


class Subject:
    """The head and, if asked for, its weights for the plain implementation."""

    def __init__(self, device: str, precision: str, whole: bool, plain: bool = True):
        self.device, self.whole = torch.device(device), whole
        clip = build_clip.load("ViT-B-16-quickgelu:random")
        options = cat_seg.Options(finetune="frozen", **({"crop": 0} if whole else {}))
        with fixed_seed():
            self.head = cat_seg.Head(clip, options, ("thing",), ("thing",)).to(device).eval()
            noise = torch.rand(1, 3, 12, 12)
        self.head.set_precision(resolve_precision(precision, self.device))
        self.image = F.interpolate(noise, (SIDE, SIDE), mode="bicubic")[0].clamp(0, 1).to(device)
        self.state = tiny_cat_seg.published_state(self.head) if plain else {}

    def text(self, classes: int) -> torch.Tensor:
        text = torch.randn(classes, 1, 512, generator=torch.Generator().manual_seed(classes))
        return F.normalize(text, dim=-1).to(self.device)  # (K, 1, E)

    def labels(self, way: str, text: torch.Tensor) -> torch.Tensor:
        """The label map (H, W) of the image."""
        if way == "here":
            scores = self.head.image_scores(self.image, text)
            names = torch.arange(len(text), device=self.device)
            return decide_labels(scores, (SIDE, SIDE), self.head.label_rule, names).labels
        run = slow.whole_image if self.whole else slow.windows_and_global_view
        choices = {"side": self.head.options.clip_size} | tiny_cat_seg.arguments(self.head)
        if not self.whole and self.device.type != "cpu":
            choices["at_a_time"] = 5  # a CPU gains nothing from a batch and loses by its memory
        precision = self.head.precision
        with torch.autocast(self.device.type, precision, enabled=precision != torch.float32):
            return run(self.state, self.image, text, (SIDE, SIDE), **choices).argmax(0)

    def timed(self, way: str, text: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Seconds, and the label map, whose values the host has waited for."""
        start = time.perf_counter()
        labels = self.labels(way, text).cpu()
        return time.perf_counter() - start, labels


def compare(args) -> dict[str, dict[int, list[float]]]:
    """Way -> number of classes -> seconds of each round; prints a line for each number of classes."""
    subject, found = Subject(args.device, args.precision, args.whole), {way: {} for way in WAYS}
    precision = str(subject.head.precision).removeprefix("torch.")
    print(f"ViT-B/16 at 384x384, {'one view' if args.whole else '4 windows and the global view'} of {SIDE}x{SIDE}, "
          f"{precision}, {args.rounds} rounds")  # fmt: skip
    for classes in args.classes:
        text = subject.text(classes)
        ways = [way for way in WAYS if way == "here" or classes <= args.plain_up_to]
        if classes == args.classes[0] or args.device != "cpu":  # the first run also allocates, and chooses kernels
            for way in ways:
                subject.timed(way, text)
        labels = {}
        for _ in range(args.rounds):
            for way in ways:
                seconds, labels[way] = subject.timed(way, text)
                found[way].setdefault(classes, []).append(seconds)
        print(f"{classes:>4} classes: {line({way: found[way][classes] for way in ways}, labels)}", flush=True)
    return found


def line(seconds: dict[str, list[float]], labels: dict[str, torch.Tensor]) -> str:
    """Images per second and, where both ways ran, their ratio and how many labels differ."""
    parts = [f"{way} {1 / statistics.median(times):.3g} images/s" for way, times in seconds.items()]
    if len(seconds) > 1:
        ratios = [a / b for a, b in zip(seconds["plain"], seconds["here"], strict=True)]
        changed = (labels["plain"] != labels["here"]).float().mean().item()
        parts.append(f"{statistics.median(ratios):.2f}x (by rounds {min(ratios):.2f} to {max(ratios):.2f})")
        parts.append(f"labels that differ {changed:.2%}")
    return ", ".join(parts)


def growth(found: dict[str, dict[int, list[float]]], few: int = 19, many: int = 150) -> None:
    """How much more time many classes take than a few."""
    for way, times in found.items():
        if {few, many} <= times.keys():
            factor = statistics.median(times[many]) / statistics.median(times[few])
            print(f"{way}: {many} classes take {factor:.2f} times as long as {few}")


def peak_memory(args, way: str, classes: int) -> float:
    """GiB, of a process that segments one image."""
    options = [f"--device={args.device}", f"--precision={args.precision}", *(["--whole"] if args.whole else [])]
    command = [sys.executable, __file__, *options, "--one", way, "--classes", str(classes)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@torch.inference_mode()
def one(args) -> float:
    subject = Subject(args.device, args.precision, args.whole, plain=args.one == "plain")
    subject.labels(args.one, subject.text(args.classes[0]))
    if args.device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", nargs="+", type=int, default=[19, 58, 150, 459, 847])
    parser.add_argument("--plain-up-to", type=int, default=150, help="most classes of the plain one (default: 150)")
    parser.add_argument("--whole", action="store_true", help="one view of the image, not five")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", help="fp32 (default), bf16 or fp16")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args)))
        return
    print(f"{processor() if args.device == 'cpu' else torch.cuda.get_device_name()}; {date.today()}")
    # Before this process grows: Linux counts a parent's memory at the start of a child as the child's own peak.
    most, both = max(args.classes), [classes for classes in args.classes if classes <= args.plain_up_to]
    peaks = {("here", most): peak_memory(args, "here", most)}
    for way in WAYS if both else ():
        peaks |= {(way, max(both)): peak_memory(args, way, max(both))}
    with torch.inference_mode():
        growth(compare(args))
    for (way, classes), peak in peaks.items():
        print(f"{way}: peak memory of one image with {classes} classes {peak:.2f} GiB")


if __name__ == "__main__":
    main()
