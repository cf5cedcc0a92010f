"""One training iteration at full size, by a head of `heads/` and by the plain implementation of the tests.

The CLIP has random weights, images and labels are blobs, text embeddings are random unit vectors. Dropout is off, so
that both implementations compute the same numbers.
"""

import time
from dataclasses import dataclass

import step_by_step_heads
import torch
import torch.nn.functional as F

from heads import find_head
from heads.losses import mask_loss
from proxyclip.backbones import build_clip
from proxyclip.backbones.checkpoints import fixed_seed

OWN = {"otseg": {"templates": tuple(f"{{}} {index}." for index in range(6))}}  # as many as on Pascal VOC
WAYS = {  # name -> (implementation, precision)
    "plain fp32": ("plain", torch.float32),
    "here fp32": ("here", torch.float32),
    "plain bf16": ("plain", torch.bfloat16),
    "here bf16": ("here", torch.bfloat16),
}


@dataclass(frozen=True)
class Task:
    """The published setting on Pascal VOC; size: side of the crops in pixels, prompts: per block."""

    head: str = "zegclip"
    size: int = 512
    batch: int = 4
    classes: int = 20
    prompts: int = 10


class Subject:
    """A head, a batch, and an optimiser whose rate is 0: every iteration computes the same numbers."""

    def __init__(self, task: Task, device: str):
        module, names = find_head(task.head), tuple(f"thing {index}" for index in range(task.classes))
        sides = {"image_size": task.size, "crop": task.size, "stride": task.size, "short_side": task.size}
        options = module.Options(prompts=task.prompts, dropout=0.0, **sides, **OWN.get(task.head, {}))
        clip = build_clip.load("ViT-B-16-quickgelu:random")
        with fixed_seed():
            self.head = module.Head(clip, options, names, names).to(device).train()
            prompts = () if self.head.AVERAGE_PROMPTS else (len(options.templates),)
            text = F.normalize(torch.randn(task.classes, *prompts, clip.visual.proj.shape[1]), dim=-1)
            images = blobs(torch.rand(task.batch, 3, 12, 12), task.size).clamp(0, 1)
            labels = blobs(torch.randn(task.batch, task.classes + 1, 6, 6), task.size).argmax(1) - 1  # -1: no label
        self.batch = tuple(part.to(device) for part in (images, labels, text))
        self.trained = [parameter for parameter in self.head.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(self.trained, lr=0.0, weight_decay=0.0)

    def iteration(self, way: str) -> float:
        """The loss of one training iteration; gradients are left in the head's parameters."""
        implementation, precision = WAYS[way]
        images, labels, text = self.batch
        self.optimiser.zero_grad()
        with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
            if implementation == "plain":
                loss = step_by_step_heads.loss(step_by_step_heads.predict(self.head, images, text), labels)
            else:
                predictions = self.head(images, text)
                loss = sum(sum(mask_loss(logits, labels).values()) for logits in predictions.values())
        loss.backward()
        self.optimiser.step()
        return loss.item()

    def timed(self, way: str) -> tuple[float, float]:
        """Seconds of one iteration, and its loss, whose value the host has waited for."""
        start = time.perf_counter()
        loss = self.iteration(way)
        if self.batch[0].is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start, loss


def blobs(coarse: torch.Tensor, size: int) -> torch.Tensor:
    """(B, C, n, n) -> (B, C, size, size), smooth."""
    return F.interpolate(coarse, (size, size), mode="bicubic")
