"""Time and memory of a training iteration compared with a plain implementation, at full size with random weights.

    python benchmarks/train_speed.py                              ZegCLIP on Pascal VOC, on the CPU (under 4 minutes)
    python benchmarks/train_speed.py --head otseg                 or cascade_clip
    python benchmarks/train_speed.py --size 256 --batch 2         smaller crops and batches
    python benchmarks/train_speed.py --device cuda --rounds 5     on a GPU, with plain bf16 as well

The setting is the published one: CLIP ViT-B/16, crops of 512 × 512, batch 4, 20 classes, 10 prompts per block. The
plain implementation (tests/step_by_step_heads.py) is the same mathematics with explicit attention matrices, losses on
one-hot maps, and autograd through everything. An iteration is prediction, loss, gradients and a step of the optimiser.
Each is run by a process of its own, after a small one to warm up, and in every round all of them take turns, so that
changes in the speed of the machine affect all. Processor time depends less on what else the machine is doing. Peak
memory is that of the process. Losses and gradients of the prompts
are compared with those of the plain implementation in fp32.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from proxyclip.runtime import wait_passively  # noqa: E402

wait_passively()

import torch  # noqa: E402

from benchmarks.cpu import processor  # noqa: E402
from benchmarks.train_subject import WAYS, Subject, Task  # noqa: E402
from heads import head_names  # noqa: E402
from proxyclip.runtime import main_guard  # noqa: E402


def one(task: Task, way: str, device: str, gradients: str) -> None:
    """Runs one way in this process, prints what it took and its loss, and saves the prompts' gradients."""
    Subject(Task(task.head, 64, 1, task.classes, task.prompts), device).iteration(way)
    subject = Subject(task, device)
    if device != "cpu":
        subject.iteration(way)  # the first iteration of this size also chooses kernels
        torch.cuda.reset_peak_memory_stats()
    before = time.process_time()
    seconds, loss = subject.timed(way)
    processor_seconds = time.process_time() - before
    peak = torch.cuda.max_memory_allocated() / 2**30 if device != "cpu" else peak_of_process()
    torch.save(subject.head.encoder.prompts.grad.cpu(), gradients)
    print(json.dumps({"seconds": seconds, "processor": processor_seconds, "peak": peak, "loss": loss}))


def peak_of_process() -> float:
    """Largest resident memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def measure(args, ways: list[str]) -> tuple[dict[str, list[dict]], dict[str, torch.Tensor]]:
    """Of every way: what `one` printed in each round, and the gradients of its prompts."""
    found, gradients = {way: [] for way in ways}, {}
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "gradients.pt")
        for _ in range(args.rounds):
            for way in ways:
                options = [f"--{name}={getattr(args, name)}" for name in ("head", "size", "batch", "device")]
                command = [sys.executable, __file__, *options, "--one", way, "--gradients", file]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
                gradients[way] = torch.load(file, weights_only=True)
    return found, gradients


def report(found: dict[str, list[dict]], gradients: dict[str, torch.Tensor]) -> None:
    """Two lines for each way; the first one is what the others are compared with."""
    first = next(iter(found))
    plain = found[first]
    for way, rounds in found.items():
        seconds, busy = ([one[name] for one in rounds] for name in ("seconds", "processor"))
        print(f"{way}: {min(seconds):.2f} s (to {max(seconds):.2f}), {min(busy):.2f} s of processor time, "
              f"peak memory {rounds[0]['peak']:.2f} GiB")  # fmt: skip
        if way == first:
            continue
        ratios = [a["seconds"] / b for a, b in zip(plain, seconds, strict=True)]
        loss = abs(rounds[0]["loss"] / plain[0]["loss"] - 1)
        error = (gradients[way] - gradients[first]).norm() / gradients[first].norm()
        print(f"    {min(one['seconds'] for one in plain) / min(seconds):.2f}x (by rounds {min(ratios):.2f} to "
              f"{max(ratios):.2f}), {min(one['processor'] for one in plain) / min(busy):.2f}x of processor time, "
              f"memory {rounds[0]['peak'] / plain[0]['peak']:.0%}")  # fmt: skip
        print(f"    loss differs by {loss:.0e}, gradients of the prompts by {error:.0e}")


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", choices=head_names(), default="zegclip")
    parser.add_argument("--size", type=int, default=512, help="side of the crops in pixels (default: 512)")
    parser.add_argument("--batch", type=int, default=4, help="images per batch (default: 4)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="which to run; compared with the first one")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--gradients", help=argparse.SUPPRESS)
    args = parser.parse_args()
    task = Task(args.head, args.size, args.batch)
    if args.one:
        one(task, args.one, args.device, args.gradients)
        return
    print(f"{processor() if args.device == 'cpu' else torch.cuda.get_device_name()}; {date.today()}")
    print(f"{task.head}, ViT-B/16, {task.size}x{task.size}, batch {task.batch}, {task.classes} classes, "
          f"{task.prompts} prompts per block; best of {args.rounds} rounds")  # fmt: skip
    ways = args.ways or [way for way in WAYS if args.device != "cpu" or way != "plain bf16"]
    report(*measure(args, ways))


if __name__ == "__main__":
    main()
