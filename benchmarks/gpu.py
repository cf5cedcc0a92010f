"""How well an evaluation keeps an accelerator busy: images/s end to end, and where the rest of the time goes.

    python benchmarks/gpu.py                                          ViT-B/16 with DINO on all benchmarks, in bf16
    python benchmarks/gpu.py --pairs ViT-B-16+dino-vitb8 ViT-L-14+dino-vitb8 ViT-H-14+dino-vitb8 ViT-B-16+sam-vitb
    python benchmarks/gpu.py --precisions fp32 bf16 fp16 --compile    more of everything
    python benchmarks/speed.py --device cuda                          one image, compared with the direct way
    python benchmarks/heads.py --iteration zegclip --device cuda      seconds per training iteration of a head

An evaluation is `eval.py` on generated files in the layout of a benchmark, with random weights, which do not change the
time. The limit is what the device reaches in a large matrix product of the same precision, divided by the operations
that one image needs in the model. Launches and waits of the host are those of torch.profiler.
"""

import argparse
import contextlib
import io
import itertools
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from proxyclip.runtime import main_guard, wait_passively

wait_passively()

import torch
from torch.profiler import ProfilerActivity, profile

import eval as evaluation
import proxyclip
from benchmarks.measure import row, table
from configs.load import load_config
from proxyclip.backbones.precision import PRECISIONS, resolve_device
from tools.profile_model import count_operations, random_text

SIZES = {"voc21": (375, 500), "ade20k": (683, 1024), "ade847": (683, 1024)}  # of the images
FEW = 8  # images of a profile


def generate(root: Path, name: str, count: int) -> None:
    """Files of a benchmark below a data root: JPEGs about as slow to decode as photographs, and blocks of labels."""
    data, (height, width), random = load_config(name).data, SIZES[name], np.random.default_rng(0)
    split, folder, stems = data.splits["val"], root / data.folder, [f"{index:06d}" for index in range(count)]
    for pattern in filter(None, (split.images, split.labels, split.listing)):
        (folder / pattern).parent.mkdir(parents=True, exist_ok=True)
    if split.listing:
        (folder / split.listing).write_text("\n".join(stems))
    for stem in stems:
        coarse = cv2.resize(random.integers(0, 256, (24, 32, 3), np.uint8), (width, height))
        image = (coarse / 2 + random.integers(0, 64, coarse.shape)).astype(np.uint8)
        blocks = random.integers(0, len(data.classes), (8, 10))
        blocks = blocks.astype(np.uint16 if len(data.classes) > 256 else np.uint8)
        cv2.imwrite(str(folder / split.images.format(stem)), image)
        label = np.kron(blocks, np.ones((99, 110), blocks.dtype))[:height, :width]
        cv2.imwrite(str(folder / split.labels.format(stem)), label)


def model_options(pair: str) -> dict[str, str]:
    """Of "ViT-B-16+dino-vitb8", with random weights, or of a preset."""
    clip, _, vfm = pair.partition("+")
    return {"clip": f"{clip}:random", "vfm": f"{vfm}:random", "templates": "{}"} if vfm else {}


def seconds_of(limit: int, root: Path, name: str, pair: str, precision: str, options) -> float:
    """Of an evaluation of so many images, the loading of the model not included."""
    chosen = [f"{field}={value}" for field, value in model_options(pair).items()]
    arguments = ["--config", name, "--data-root", root, "--json", root / "line.json", "--workdir", root / "work"]
    arguments += ["--device", options.device, "--precision", precision, "--workers", options.workers, "--limit", limit]
    arguments += ["--set", *chosen] if chosen else ["--preset", pair]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are too long for a small CLIP
        evaluation.main([*map(str, arguments), *["--compile"][: options.compile]])
    return json.loads((root / "line.json").read_text())["seconds"]


def calls(seconds: Callable[[int], float]) -> list[str]:
    """Kernel launches and waits of the host for each image: twice as many images, less what they share."""
    counts = []
    for limit in (FEW, 2 * FEW):
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            seconds(limit)
        events = {f"{event.key} ": event.count for event in profiled.key_averages()}
        launches = sum(count for event, count in events.items() if "LaunchKernel" in event)
        waits = sum(count for event, count in events.items() if "Synchronize" in event or "cudaMemcpy " in event)
        counts.append(np.array([launches, waits]))
    return [f"{count:.1f}" for count in (counts[1] - counts[0]) / FEW]


def product_speed(device: torch.device, precision: str) -> float:
    """FLOP/s of a large matrix product, the best of a few."""
    side = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device).to(PRECISIONS[precision]) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        (a[:1] @ b).sum().item()  # waits for the device
        started = time.perf_counter()
        (a @ b)[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def operations_of(name: str, pair: str, precision: str, options) -> int:
    """Floating-point operations of the model for one image."""
    config, size = load_config(name), SIZES[name]
    chosen = model_options(pair) or {"preset": pair}
    chosen |= {"short_side": config.short_side} if config.short_side else {}
    model = proxyclip.load(**chosen, device=options.device, precision=precision)
    size = [round(side * model.short_side / min(size)) for side in size]
    return count_operations(model, torch.rand(3, *size, device=options.device), random_text(model, len(config.queries)))


@main_guard
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--pairs", nargs="+", default=["ViT-B-16+dino-vitb8"], metavar="CLIP+VFM")
    add("--benchmarks", nargs="+", choices=SIZES, default=[*SIZES])
    add("--precisions", nargs="+", choices=PRECISIONS, default=["bf16"])
    add("--images", type=int, default=400, help="of an evaluation, at least 2 (default: 400)")
    add("--workers", type=int, default=8)
    add("--compile", action="store_true")
    add("--device", default="cuda")
    options = parser.parse_args(arguments)
    device = resolve_device(options.device)
    on_gpu = device.type == "cuda"
    title = torch.cuda.get_device_name(device) if on_gpu else options.device
    print(f"{title}, torch {torch.__version__}, {options.images} images, {options.workers} processes that read\n")
    titles = ["images/s", "of the limit", "TFLOP an image", "launches", "waits", "memory"]
    print(table(["pair", "benchmark", "precision", *titles], []))
    for name in options.benchmarks:
        with tempfile.TemporaryDirectory() as folder:
            generate(root := Path(folder), name, options.images)
            for pair, precision in itertools.product(options.pairs, options.precisions):
                more = {"root": root, "name": name, "pair": pair, "precision": precision, "options": options}
                seconds = partial(seconds_of, **more)
                seconds(few := min(FEW, options.images // 2))  # chooses kernels
                speed = (options.images - few) / (seconds(options.images) - seconds(few))
                memory = f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if on_gpu else ""
                counts = calls(seconds) if on_gpu else ["", ""]
                operations = operations_of(name, pair, precision, options)
                share = speed * operations / product_speed(device, precision)
                texts = [pair, name, precision, f"{speed:.2f}", f"{share:.1%}", f"{operations / 1e12:.2f}", *counts]
                print(row([*texts, memory]), flush=True)


if __name__ == "__main__":
    main()
