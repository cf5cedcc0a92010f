"""The peak memory of one image with a full-size model of random weights, on the CPU.

    python benchmarks/memory.py                                      # GLA-CLIP: ViT-B/16 + DINO-B/8, 40 windows
    python benchmarks/memory.py --method pearl --refine tlp --short-side 336

Prints the resident memory of the process when the model is loaded, its highest value from then on until the label map
is there, and how long that took.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from proxyclip.runtime import wait_passively

wait_passively()

import torch  # noqa: E402

import proxyclip  # noqa: E402
from benchmarks.cpu import processor  # noqa: E402
from proxyclip.methods import find_method  # noqa: E402
from proxyclip.vocabulary import Vocabulary  # noqa: E402


def resident() -> float:
    """GiB that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


def peak() -> float:
    """GiB that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="glaclip")
    parser.add_argument("--refine")
    parser.add_argument("--size", type=int, nargs=2, default=(683, 1024), metavar=("H", "W"))
    parser.add_argument("--short-side", type=int, default=0, help="0: the image is not resized")
    parser.add_argument("--classes", type=int, default=150)
    arguments = parser.parse_args()

    vfm = "dino-vitb8:random" if find_method(arguments.method).NEEDS_VFM else None
    model = proxyclip.load(
        clip="ViT-B-16:random", vfm=vfm, method=arguments.method, refine=arguments.refine, device="cpu",
        short_side=arguments.short_side, templates=("a {}.",),
    )  # fmt: skip
    image = np.random.default_rng(0).integers(0, 256, (*arguments.size, 3), np.uint8)
    vocabulary = Vocabulary.parse([f"name {index}" for index in range(arguments.classes)])
    with torch.inference_mode():
        model.encode_classes(vocabulary)
        prepared = model.prepare(image)
        windows = model.windows.count(tuple(prepared.shape[1:]))
        before, started = resident(), time.monotonic()
        model.predict(prepared, image.shape[:2], vocabulary)
    print(processor())
    size = "x".join(map(str, arguments.size))
    print(
        f"{model.method}{f' with {arguments.refine}' if arguments.refine else ''}, {size}, {windows} windows, "
        f"{arguments.classes} classes: {before:.2f} GiB when loaded, peak {peak():.2f} GiB, "
        f"{time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
