"""Time and memory of full-size models with random weights, compared with the direct way.

    python benchmarks/speed.py                                    the README's table, about 15 minutes
    python benchmarks/speed.py --methods maskclip --tasks small --rounds 1
    python benchmarks/speed.py --against FOLDER --without-direct  another checkout of this repository, in turn
    python benchmarks/speed.py --device cuda                      on a GPU
    python benchmarks/speed.py --backend openvino --threads 1     OpenVINO in turn; needs pip install '.[openvino]'
    python benchmarks/speed.py --methods glaclip --tasks whole    the memory of a method that looks at whole images

The direct way is tests/step_by_step.py: explicit softmax attention, one window at a time, and score maps of all classes
at full size. CLIP ViT-B/16, DINO ViT-B/8 where a method needs it. A measurement is one image, from its pixels to its
labels, by the `proxyclip` of the current folder. The text embeddings are random, so encoding names is no part of it.
With random weights the time is that of trained ones, but probabilities are nearly tied, so bf16 changes more labels.
"""

import argparse
import itertools
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np

HERE = Path.cwd() if (Path.cwd() / "proxyclip").is_dir() else Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE / "tests")]

from measure import TITLES, cells, compare, machine, measure, row, table

TASKS = {  # size of the image, number of classes, size that it is resized to
    "small": ((375, 500), 20, (336, 448)),  # 2 windows
    "large150": ((683, 1024), 150, (448, 672)),  # 8 windows
    "large847": ((683, 1024), 847, (448, 672)),
    "whole": ((683, 1024), 150, (683, 1024)),  # 40 windows
}
DIRECT = {"clip": "vanilla", "maskclip": "values", "proxyclip": "proxy"}  # method -> its name in step_by_step.py


def one(job: dict) -> dict:
    """A process of its own: the time and the memory of one image, and one label in sixteen."""
    import torch

    import proxyclip
    from proxyclip.methods import find_method

    size, classes, resized = TASKS[job["task"]]
    names, labels, device = [f"name {index}" for index in range(classes)], [], job["device"]
    model = proxyclip.load(
        clip="ViT-B-16:random", vfm="dino-vitb8:random" if find_method(job["method"]).NEEDS_VFM else None,
        method=job["method"], short_side=0 if resized == size else min(resized), templates=("{}",), device=device,
        **job["options"],
    )  # fmt: skip
    text = torch.randn(classes, model.clip.visual.proj.shape[1], generator=torch.Generator().manual_seed(1))
    text = torch.nn.functional.normalize(text, dim=1).to(device)  # (Q, E)
    model.encode_classes = lambda vocabulary: text

    @torch.inference_mode()
    def run(image: np.ndarray) -> None:
        labels.append(direct(image) if job["direct"] else model.segment(image, names).labels)

    def direct(image: np.ndarray) -> np.ndarray:
        import step_by_step

        pair, sides = (model.clip, getattr(model, "vfm", None)), (model.windows.crop, model.windows.stride)
        with torch.device(device):  # for the tensors that it makes
            small = torch.tensor(cv2.resize(image, resized[::-1])).permute(2, 0, 1) / 255  # (3, h, w)
            kind = DIRECT[job["method"]]
            return step_by_step.segment(*pair, text, range(classes), small, *sides, size, attention_kind=kind)[0].cpu()

    run(photograph((336, 336)))  # what the first image of a process takes in addition
    image = photograph(size)
    return measure(lambda: run(image)) | {"labels": labels[-1][::4, ::4].tolist()}


def photograph(size: tuple[int, int]) -> np.ndarray:
    """Smooth blobs, (H, W, 3) uint8."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def ways(options, method: str, task: str) -> dict[str, dict]:
    """Title -> what `one` needs to know, and the folder it runs in."""
    shared = {"method": method, "task": task, "device": options.device, "folder": str(HERE), "direct": False}
    jobs = {}
    if method in DIRECT and not options.without_direct:
        jobs["direct"] = shared | {"direct": True, "options": {"precision": "fp32"}}
    for precision in options.precisions:
        jobs[precision] = shared | {"options": {"precision": precision}}
        if options.backend:
            chosen = {"precision": precision, "backend": options.backend}
            jobs[f"{precision}, {options.backend}"] = shared | {"options": chosen}
        if options.against:
            jobs[f"{precision}, there"] = jobs[precision] | {"folder": str(options.against.resolve())}
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--methods", nargs="+", default=["proxyclip", "maskclip"], metavar="METHOD")
    add("--tasks", nargs="+", choices=TASKS, default=["small", "large150", "large847"])
    add("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    add("--rounds", type=int, default=3)
    add("--threads", type=int, default=os.cpu_count(), help="of each process (default: all cores)")
    add("--device", default="cpu", help="cpu (default) or cuda")
    add("--backend", choices=("openvino",))
    add("--against", type=Path, metavar="FOLDER", help="another checkout, in turn with the one of the current folder")
    add("--without-direct", action="store_true", help="compare with the first precision instead")
    add("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one)))
        return
    if options.against and not (options.against / "proxyclip").is_dir():
        parser.error(f"--against {options.against}: there is no folder proxyclip in it")
    print(f"{machine()}, {options.threads} threads, {options.rounds} rounds\n")
    print(table(["", "way", *TITLES, "labels that differ"], []), flush=True)
    for method, task in itertools.product(options.methods, options.tasks):
        (height, width), classes, _ = TASKS[task]
        results = compare(__file__, ways(options, method, task), options.rounds, options.threads)
        first = next(iter(results.values()))
        for way, rounds in results.items():
            differing = np.not_equal(rounds[0]["labels"], first[0]["labels"]).mean()
            subject = f"{method}, {width}×{height}, {classes} classes"
            print(row([subject, way, *cells(rounds, first), f"{differing:.2%}"]), flush=True)


if __name__ == "__main__":
    main()
