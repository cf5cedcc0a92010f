"""Trains the embedded models from scratch: generates scenes, trains the tiny CLIP and VFM, and writes their files.

    python tools/train_mini.py --all                 everything, in 35 to 70 minutes on two cores
    python tools/train_mini.py --clip --seed 1       one part; the parts are --draw, --clip, --vfm and --write
    python tools/train_mini.py --all --smoke         a smoke test of all parts on a few samples

Run the same command again to continue an interrupted run: scenes and checkpoints are stored in the folder given by
--work, one checkpoint for each model, seed and number of samples.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the repository's own packages, also when proxyclip is not installed

import numpy as np
import torch
from safetensors.torch import save

from datasets import scenes
from datasets.scenes.dataset import TRAINING
from proxyclip.backbones.checkpoints import import_library
from proxyclip.backbones.precision import resolve_device
from proxyclip.errors import InputError, NotFound
from proxyclip.files import writable_folder, write_whole
from proxyclip.runtime import main_guard
from tools import mini_clip, mini_data, mini_vfm
from tools.mini_data import Scenes, crop_batch, generate_once, progress

WARM_UP, EVERY = 300, 200  # steps; steps between checkpoints
SMOKE = {"scenes": 32, "clip_samples": 1, "vfm_samples": 1}
# Options for inference, chosen on the "tune" scenes. Windows are padded to a multiple of the CLIP's patch.
OPTIONS = {"short_side": 128, "crop": 64, "stride": 32, "multiple": 8, "logit_scale": 40.0}
METHODS = {  # of one method each: `benchmarks/methods.py --choose`
    "gem": {"blocks": 2, "iterations": 0},
    "glaclip": {"similarity": 0.97, "gamma_growth": 3000.0},
    "naclip": {"std": 2.0},
    "pearl": {"alpha": 0.3},
    "proxyclip": {"beta": 1.2, "gamma": 20.0},
    "resclip": {"std": 1.0, "residual_weight": 0.6},
    "scclip": {"min_similarity": 0.8, "class_weight": 0.0},
}
VFM_LAYER = 2  # counted from 1; the last norm follows it


def adamw(module: torch.nn.Module, learning_rate: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    matrices = [p for name, p in module.named_parameters() if p.ndim >= 2 and "embed" not in name]
    others = [p for name, p in module.named_parameters() if not (p.ndim >= 2 and "embed" not in name)]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)


def train(title: str, module: torch.nn.Module, optimizer, make_batch: Callable, steps: int, checkpoint: Path) -> None:
    """Trains `module`, warm-up and cosine, for `steps` steps, or continues from `checkpoint` exactly.

    make_batch(step) runs one step ahead in a thread and must depend on the step alone; module(batch) returns the loss
    and a dict of numbers to display. Learning rates start from those of the optimizer's groups.
    """
    peaks, first, averages = [group["lr"] for group in optimizer.param_groups], 0, {}
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location="cpu")
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    device, warm_up = next(module.parameters()).device.type, min(WARM_UP, max(1, steps // 10))
    module.train()
    with ThreadPoolExecutor(1) as ahead, progress(None, title, steps, "step", first) as bar:
        waiting = ahead.submit(make_batch, first)
        for step in range(first, steps):
            batch, waiting = waiting.result(), ahead.submit(make_batch, step + 1)
            factor = min(1, (step + 1) / warm_up) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            torch.manual_seed(step)  # random numbers within a step must not depend on where the run was resumed
            with torch.autocast(device, dtype=torch.bfloat16):
                loss, numbers = module(batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            for name, number in numbers.items():
                averages[name] = averages.get(name, number) * 0.98 + number * 0.02
            bar.update()
            if step % 50 == 49:
                bar.set_postfix({name: f"{number:.3f}" for name, number in averages.items()}, refresh=False)
            if step % EVERY == EVERY - 1 or step == steps - 1:
                state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
                write_whole(checkpoint, partial(torch.save, state))
    module.eval()


def train_clip(data: Scenes, vocabulary: Path, checkpoint: Path, options) -> None:
    tokenizer = import_library("open_clip.tokenizer").SimpleTokenizer(str(vocabulary))
    torch.manual_seed(options.seed)
    clip = mini_clip.new_clip(mini_clip.model_config(tokenizer.vocab_size, vocabulary.name))
    lesson = mini_clip.Lesson(clip).to(options.device)
    make_batch = partial(mini_clip.make_batch, data, tokenizer, options.seed)
    optimizer, steps = adamw(lesson, 1.5e-3, (0.9, 0.98)), max(1, options.clip_samples // mini_clip.BATCH)
    train(f"CLIP, seed {options.seed}", lesson, optimizer, make_batch, steps, checkpoint)


def train_vfm(data: Scenes, checkpoint: Path, options) -> None:
    """On `vfm_samples` crops to reconstruct and as many to group."""
    torch.manual_seed(options.seed)
    vit, seed = mini_vfm.new_vfm(), options.seed

    def reconstruction(step: int):
        rng = np.random.default_rng((seed, 2, step))
        return crop_batch(data, rng, mini_vfm.BATCH, mini_vfm.SIDES, mini_vfm.CROP, 0.5)[0]

    def pairs(step: int):
        return mini_vfm.pair_batch(data, np.random.default_rng((seed, 3, step)), mini_vfm.PAIRS)

    first = checkpoint.with_suffix(".reconstruction.pt")
    for name, lesson, rate, make_batch, crops, file in (
        ("reconstruction", mini_vfm.Reconstruction, 1.5e-3, reconstruction, mini_vfm.BATCH, first),
        ("grouping", mini_vfm.Grouping, 5e-4, pairs, 2 * mini_vfm.PAIRS, checkpoint),
    ):
        module = lesson(vit).to(options.device)
        steps = max(1, options.vfm_samples // crops)
        train(f"VFM {name}, seed {seed}", module, adamw(module, rate, (0.9, 0.95)), make_batch, steps, file)


def write(out: Path, clip_checkpoint: Path, vfm_checkpoint: Path, vocabulary: Path) -> None:
    """Writes `clip/` in open_clip's layout, `vfm/` in timm's, both in fp16, and `mini.json`.

    NotFound for a checkpoint that does not exist.
    """
    tokenizer = import_library("open_clip.tokenizer").SimpleTokenizer(str(vocabulary))
    config = mini_clip.model_config(tokenizer.vocab_size, vocabulary.name)
    colours = {"mean": list(mini_clip.MEAN), "std": list(mini_clip.DEVIATION), "interpolation": "bilinear"}
    clip, vit = _weights(clip_checkpoint, "clip."), _weights(vfm_checkpoint, "vit.")
    pretrained = {"input_size": [3, mini_vfm.CROP, mini_vfm.CROP], "mean": [0.5] * 3, "std": [0.5] * 3}
    pretrained |= {"num_classes": 0, "first_conv": "patch_embed.proj", "classifier": "head"}
    vfm = {"architecture": mini_vfm.ARCHITECTURE, "model_args": mini_vfm.MODEL_ARGS, "pretrained_cfg": pretrained}
    words = sorted({name for names in scenes.SYNONYMS.values() for name in names} | set(mini_data.colour_names()))
    mini = {"parameters": sum(tensor.numel() for tensor in [*clip.values(), *vit.values()]), "vfm_layer": VFM_LAYER}
    mini |= {"options": OPTIONS | {"templates": list(mini_data.TEMPLATES)}, "methods": METHODS, "known_words": words}
    for name, content in {
        "clip/open_clip_config.json": {"model_cfg": config, "preprocess_cfg": colours},
        "clip/open_clip_model.safetensors": clip,
        f"clip/{vocabulary.name}": vocabulary.read_bytes(),
        "vfm/config.json": vfm,
        "vfm/model.safetensors": vit,
        "mini.json": mini,
    }.items():
        if name.endswith(".json"):
            content = (json.dumps(content, indent=1) + "\n").encode()
        elif name.endswith(".safetensors"):
            content = save({key: tensor.half().contiguous() for key, tensor in content.items()})
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)


def _weights(checkpoint: Path, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors of one submodule of a checkpoint's module."""
    if not checkpoint.is_file():
        raise NotFound(f"there is no checkpoint {checkpoint}: train that model first, with the same seed and samples")
    module = torch.load(checkpoint, weights_only=True, map_location="cpu")["module"]
    return {name.removeprefix(prefix): tensor for name, tensor in module.items() if name.startswith(prefix)}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """InputError for anything that can be checked before the work starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, parts = parser.add_argument, ("draw", "clip", "vfm", "write")
    add("--all", action="store_true", help="run all parts")
    for part in parts:
        add(f"--{part}", action="store_true", help=argparse.SUPPRESS)
    add("--seed", type=int, default=0)
    add("--scenes", type=int, default=len(TRAINING), help="scenes to generate (default: %(default)s)")
    add("--clip-samples", type=int, default=1_000_000, help="crops (default: %(default)s)")
    add("--vfm-samples", type=int, default=50_000, help="crops (default: %(default)s)")
    add("--smoke", action="store_true", help="use only a few samples")
    add("--device", default="cpu", help="cpu (default) or cuda")
    add("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all)")
    add("--work", type=Path, default=ROOT / "work" / "mini", help="folder for scenes and checkpoints")
    add("--out", type=Path, default=ROOT / "proxyclip" / "mini", help="folder for the finished files")
    options = parser.parse_args(arguments)
    vars(options).update(SMOKE if options.smoke else {})
    vars(options).update(dict.fromkeys(parts, True) if options.all else {})
    if not any(vars(options)[part] for part in parts):
        raise InputError("nothing to do: give --all, or some of --draw, --clip, --vfm, --write")
    for option, least in {"seed": 0, "scenes": 1, "clip_samples": 1, "vfm_samples": 1, "threads": 1}.items():
        if vars(options)[option] < least:
            name = f"--{option.replace('_', '-')}"
            raise InputError(f"{name} must be {least} or more, not {vars(options)[option]}")
    resolve_device(options.device)
    for folder in (options.work, options.out):
        writable_folder(folder)
    return options


@main_guard
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    (options.work / ".gitignore").write_text("*\n")
    vocabulary = options.work / "vocabulary.txt.gz"
    mini_data.write_vocabulary(vocabulary)
    clip_checkpoint = options.work / f"clip-{options.seed}-{options.clip_samples}.pt"
    vfm_checkpoint = options.work / f"vfm-{options.seed}-{options.vfm_samples}.pt"
    if options.draw or options.clip or options.vfm:
        data = Scenes(generate_once(options.work, options.scenes, options.threads))
    if options.clip:
        train_clip(data, vocabulary, clip_checkpoint, options)
    if options.vfm:
        train_vfm(data, vfm_checkpoint, options)
    if options.write:
        write(options.out, clip_checkpoint, vfm_checkpoint, vocabulary)


if __name__ == "__main__":
    main()
