"""The size of a model and what one image costs: parameters, GFLOPs, images/s and peak memory.

    python tools/profile_model.py zegclip_voc20_inductive        a configuration in configs/heads/, or a path
    python tools/profile_model.py runs/zeg                       a trained head
    python tools/profile_model.py vitb16-dino                    a preset; --method maskclip for another method
    python tools/profile_model.py mini --size 128 192

Weights are random unless they are embedded, because none of these numbers depends on them: nothing is downloaded. The
image is a square of the model's short side unless --size is given. GFLOPs are those of the scores of all its windows,
as PyTorch counts them: a multiplication and an addition are two, and element-wise operations none. Papers often count
the two as one. Text embeddings are made once for all images, and are part of no number here.
"""

import argparse
import os
import statistics
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the repository's own packages, also when proxyclip is not installed

from proxyclip.runtime import wait_passively  # noqa: E402

wait_passively()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import heads  # noqa: E402
from benchmarks.cpu import processor  # noqa: E402
from configs.arguments import check_numbers  # noqa: E402
from configs.load import load_config  # noqa: E402
from configs.training import TrainConfig  # noqa: E402
from heads.clips import find_clip  # noqa: E402
from heads.training.loop import peak_megabytes  # noqa: E402
from heads.training.plan import plan_head  # noqa: E402
from proxyclip.backbones import build_clip  # noqa: E402
from proxyclip.backbones.build_clip import uses_quick_gelu  # noqa: E402
from proxyclip.errors import InputError  # noqa: E402
from proxyclip.labels import decide_labels  # noqa: E402
from proxyclip.loading import plan as plan_model  # noqa: E402
from proxyclip.loading import preset_names, recorded_name  # noqa: E402
from proxyclip.runtime import main_guard  # noqa: E402
from proxyclip.segmentor import Segmentor  # noqa: E402


@main_guard
def main(arguments=None) -> None:
    options = parse(arguments)
    check_numbers(options, classes=1, rounds=1)
    if min(options.size or [1]) < 1:
        raise InputError(f"--size must be at least 1 pixel, not {min(options.size)}")
    model, classes = make(options)
    clip = recorded_name(model.clip.name)
    side = model.short_side or model.windows.crop
    size = model.resize.size(*(options.size or (side, side)))
    image, text = torch.rand(3, *size, device=model.device), random_text(model, classes)
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    with torch.no_grad():
        seconds = seconds_of(model, image, text, options.rounds)
        flop = flop_of(model, image, text)  # last: what is measured once per process is not part of it
    windows, precision = model.windows.count(size), model.settings()["precision"]
    on_cpu = model.device.type == "cpu"
    print(f"{options.model}: {model.method}, {clip}{', random weights' * clip.endswith(':random')}")
    print(f"{processor() if on_cpu else torch.cuda.get_device_name(model.device)}, {precision}; {date.today()}")
    print(f"image         {size[1]}x{size[0]} pixels, {windows} window{'s'[: windows > 1]}, {classes} classes")
    print(f"parameters    {total / 1e6:.2f} M, of which {trained / 1e6:.2f} M are trained")
    print(f"operations    {flop / 1e9:.1f} GFLOPs; {flop / 2e9:.1f} with a multiplication and an addition as one")
    middle, low, high = 1 / statistics.median(seconds), 1 / max(seconds), 1 / min(seconds)
    print(f"speed         {middle:.2f} images/s ({low:.2f} to {high:.2f})")
    print(f"peak memory   {peak_megabytes(model.device) / 1000:.2f} GB of {'the process' if on_cpu else 'the device'}")


def parse(arguments) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", metavar="CONFIG_OR_PRESET", help="a configuration of a head, a trained head, or a preset")
    add("--method", default="proxyclip", help="of a preset: any training-free method (default: proxyclip)")
    add("--clip", help="of a trained head whose checkpoint names a CLIP without a place")
    add("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the image, before it is resized")
    add("--classes", type=int, metavar="N", help="default: those of a head's training, else 20")
    add("--rounds", type=int, default=5, metavar="N", help="timed runs after the first one (default: 5)")
    add("--device", default="auto", help="cpu, cuda, mps or auto (default)")
    add("--precision", default="auto", help="fp32, bf16, fp16 or auto (default)")
    return parser.parse_args(arguments)


def make(options) -> tuple[Segmentor, int]:
    """The model with random weights, and the number of classes."""
    place = {"device": options.device, "precision": options.precision}
    if options.model in preset_names():
        plan = plan_model(options.model, method=options.method, **place)
        vfm = plan.vfm if os.path.isdir(plan.vfm.partition(":")[2]) else f"{plan.vfm}:random"
        return replace(plan, clip=random_clip(plan.clip), vfm=vfm).build(), options.classes or 20
    if os.path.exists(options.model) and not options.model.endswith(".py"):
        plan = heads.plan(options.model, clip=options.clip, **place)
    else:
        config = load_config(options.model, TrainConfig)
        plan = plan_head(config.head, config.options, config.clip, config.data.classes, config.seen, **place)
    clip = build_clip.load(random_clip(find_clip(plan.clip)[0]))
    options_of_head = replace(plan.options, text_embeddings=None)
    model = plan.module.Head(clip, options_of_head, plan.classes, plan.seen)
    model = model.set_precision(plan.dtype).to(plan.device).eval()
    return model, options.classes or len(plan.classes) or 20  # not every checkpoint names classes


def random_clip(spec: str) -> str:
    """The same architecture with the same activation and random weights; a folder's weights are there."""
    if os.path.isdir(spec):
        return spec
    name, weights, _ = build_clip.parse(spec)
    quick = uses_quick_gelu(name, weights) and not name.endswith("-quickgelu")
    return f"{name}{'-quickgelu' if quick else ''}:random"


def random_text(model: Segmentor, classes: int) -> torch.Tensor:
    """Unit vectors (K, E), or (K, P, E) for a head that keeps prompts apart."""
    prompts = () if getattr(model, "AVERAGE_PROMPTS", True) else (len(model.templates),)
    return F.normalize(torch.randn(classes, *prompts, model.clip.visual.proj.shape[1], device=model.device), dim=-1)


def flop_of(model: Segmentor, image: torch.Tensor, text: torch.Tensor) -> int:
    # The one kernel for attention that PyTorch's counter leaves out.
    on_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flop}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # in this thread, the only one that the counter sees
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        model.image_scores(image, text, batch_windows=1)  # without padded batches
    torch.set_num_threads(threads)
    return counter.get_total_flops()


def attention_flop(query: torch.Size, key: torch.Size, value: torch.Size, *_, **__) -> int:
    """Of q kᵀ and of the mixture of values; sizes (B, heads, T, d)."""
    return 2 * query.numel() * (key[2] + value[2])


def seconds_of(model: Segmentor, image: torch.Tensor, text: torch.Tensor, rounds: int) -> list[float]:
    """Of each run after the first one, from an image to its labels."""
    owners, found = torch.arange(len(text), device=model.device), []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        labels = decide_labels(model.image_scores(image, text), tuple(image.shape[1:]), model.label_rule, owners).labels
        labels[0, 0].item()  # waits for the device
        found.append(time.perf_counter() - start)
    return found[1:]


if __name__ == "__main__":
    main()
