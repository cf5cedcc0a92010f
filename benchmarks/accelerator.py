"""Images per second on an accelerator."""

import statistics

import torch

import proxyclip
from benchmarks.cpu import timed


def images_per_second(device: str, image) -> None:
    """Prints the throughput for batches of an image (H, W, 3) with 20 classes, in bf16, eager and compiled."""
    model = proxyclip.load(clip="ViT-B-16:random", vfm="dino-vitb8:random", precision="bf16", device=device)
    classes = [f"thing {index}" for index in range(20)]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bf16")
    for compiled in (False, True):
        if compiled:
            model.vfm.forward = torch.compile(model.vfm.forward)
            model.clip.values = torch.compile(model.clip.values)
        for count in (1, 4, 16):
            run = [image] * count
            model.segment(run, classes, batch_windows=2 * count)
            took = statistics.median(timed(lambda: model.segment(run, classes))[0] for _ in range(5))  # noqa: B023
            print(f"  {count:>2} images{', compiled' if compiled else '':<10}: {count / took:.1f} images/s", flush=True)
