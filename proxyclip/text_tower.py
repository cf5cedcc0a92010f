"""Where the text tower is: on the image tower's device while it encodes names, otherwise on the CPU.

Its weights in float32 need up to 1.3 GiB, more than the image tower's in half precision, and names are encoded once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import torch

from proxyclip.backbones.clip import DenseCLIP
from proxyclip.text_memory import TextMemory, remember, text_parameters

ENCODING = RLock()  # held while names are encoded: another thread may not move the weights meanwhile


def home(clip: DenseCLIP) -> torch.device:
    """The device of the image tower."""
    return clip.visual.conv1.weight.device


def fetch(clip: DenseCLIP) -> torch.device:
    """Moves the text weights to the image tower's device, unless that is the CPU; returns where they are."""
    if home(clip).type != "cpu":
        move(clip, home(clip))
    return text_parameters(clip)[0].device


def park(clip: DenseCLIP, memory: TextMemory) -> None:
    """Moves the text weights to the CPU, unless they are or may be in training; the memory stays the model's."""
    trained = clip.model.training or any(weight.requires_grad for weight in text_parameters(clip))
    if home(clip).type != "cpu" and not trained:
        move(clip, torch.device("cpu"))
    remember(clip, memory)


def move(clip: DenseCLIP, device: torch.device) -> None:
    """The parameters stay the same objects; buffers are small and stay where they are."""
    for weight in text_parameters(clip):
        if weight.device != device:
            weight.data = weight.data.to(device)


@contextmanager
def encoding(clip: DenseCLIP) -> Iterator[None]:
    """The text weights are where they encode, and autocast is off: a rounded embedding would stay in the cache."""
    with torch.autocast(fetch(clip).type, enabled=False):
        yield
