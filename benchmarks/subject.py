"""The tasks of `speed.py`, and a full-size model with random weights that runs them in two ways."""

import time
from dataclasses import dataclass
from threading import Lock

import numpy as np
import step_by_step
import torch
import torch.nn.functional as F

import proxyclip
from proxyclip.images import Resize
from proxyclip.labels import decide_labels


@dataclass(frozen=True)
class Task:
    """An image (H, W), the number of classes, and the short side that the image is resized to."""

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
    """Adds up the time during which at least one of some functions of a model runs, in any thread."""

    def __init__(self, *places):
        self.seconds, self.inside, self.lock = 0.0, 0, Lock()
        for owner, name in places:
            setattr(owner, name, self.timed(getattr(owner, name)))

    def timed(self, function):
        def run(*args):
            with self.lock:
                self.inside += 1
                self.seconds -= time.perf_counter() if self.inside == 1 else 0
            try:
                return function(*args)
            finally:
                with self.lock:
                    self.inside -= 1
                    self.seconds += time.perf_counter() if not self.inside else 0

        return run


def blobs(task: Task) -> np.ndarray:
    """Smooth blobs, (H, W, 3) uint8."""
    noise = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    colours = F.interpolate(noise, (task.height, task.width), mode="bicubic").clamp(0, 1)
    return (colours[0].permute(1, 2, 0) * 255).byte().numpy()


class Subject:
    """The models and the implementations to compare; text embeddings are random unit vectors."""

    def __init__(self, precision: str = "fp32"):
        self.model = proxyclip.load(clip="ViT-B-16:random", vfm="dino-vitb8:random", precision=precision, device="cpu")
        self.transformers = Stopwatch((self.model.clip, "values"), (self.model.vfm, "forward"))

    def text(self, task: Task) -> torch.Tensor:
        text = torch.randn(task.classes, 512, generator=torch.Generator().manual_seed(1))
        return F.normalize(text, dim=1)  # (Q, E)

    def prepare(self, task: Task, image: np.ndarray) -> torch.Tensor:
        self.model.resize = Resize(task.short_side)
        return self.model.prepare(image)

    def engine(self, task: Task, image: np.ndarray) -> torch.Tensor:
        scores = self.model.image_scores(self.prepare(task, image), self.text(task))
        return decide_labels(
            scores, (task.height, task.width), self.model.label_rule, torch.arange(task.classes)
        ).labels

    def step_by_step(self, task: Task, image: np.ndarray) -> torch.Tensor:
        model = self.model
        return step_by_step.segment(
            model.clip, model.vfm, self.text(task), list(range(task.classes)), self.prepare(task, image),
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
