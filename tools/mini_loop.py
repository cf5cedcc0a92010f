"""One training loop for both models: warm-up, cosine, and checkpoints to resume from exactly."""

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from proxyclip.files import write_whole

WARM_UP = 300  # steps
EVERY = 200  # steps between checkpoints


def progress(things, title, total, unit, first=0):
    """A progress bar; in a log file, a line every half minute."""
    return tqdm(things, title, total, unit=unit, initial=first, mininterval=0.3 if sys.stderr.isatty() else 30)


def adamw(module, learning_rate, betas):
    """AdamW with weight decay on matrices only."""
    matrices = [p for name, p in module.named_parameters() if p.ndim >= 2 and "embed" not in name]
    others = [p for name, p in module.named_parameters() if not (p.ndim >= 2 and "embed" not in name)]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)


def train(title, module, optimizer, make_batch, loss_of, steps, checkpoint: Path):
    """Trains `module` for `steps` steps, or continues from `checkpoint`.

    make_batch(step) runs one step ahead in a thread and must depend on the step alone; loss_of(batch) returns the loss
    and a dict of numbers to display. Learning rates start from those of the optimizer's groups.
    """
    peaks = [group["lr"] for group in optimizer.param_groups]
    first = _resume(module, optimizer, checkpoint)
    device_type = next(module.parameters()).device.type
    warm_up = min(WARM_UP, max(1, steps // 10))
    averages = {}
    module.train()
    with ThreadPoolExecutor(1) as ahead, progress(None, title, steps, "step", first) as bar:
        waiting = ahead.submit(make_batch, first)
        for step in range(first, steps):
            batch, waiting = waiting.result(), ahead.submit(make_batch, step + 1)
            factor = min(1, (step + 1) / warm_up) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            torch.manual_seed(step)  # random numbers within a step must not depend on where the run was resumed
            with torch.autocast(device_type, dtype=torch.bfloat16):
                loss, numbers = loss_of(batch)
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
                _save(
                    {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, checkpoint
                )
    module.eval()


def _resume(module, optimizer, checkpoint):
    if not checkpoint.exists():
        return 0
    saved = torch.load(checkpoint, weights_only=True, map_location="cpu")
    module.load_state_dict(saved["module"])
    optimizer.load_state_dict(saved["optimizer"])
    return saved["step"]


def _save(state, path):
    write_whole(path, lambda file: torch.save(state, file))
