"""Trains the embedded models from scratch: generates scenes, trains the tiny CLIP and VFM, and writes their files.

    python tools/train_mini.py --all                 everything, in 35 to 70 minutes on two cores
    python tools/train_mini.py --clip --seed 1       one part; the parts are --draw, --clip, --vfm and --write
    python tools/train_mini.py --all --smoke         a smoke test of all parts on a few samples

Run the same command again to continue an interrupted run: scenes and checkpoints are stored in the folder given by
--work, one checkpoint for each model, seed and number of samples.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the repository's own packages, also when proxyclip is not installed

from datasets.scenes.dataset import TRAINING  # noqa: E402
from proxyclip.errors import InputError  # noqa: E402
from proxyclip.runtime import main_guard  # noqa: E402

SCENES, CLIP_SAMPLES, VFM_SAMPLES = len(TRAINING), 1_000_000, 50_000
SMOKE = {"scenes": 64, "clip_samples": 128 * 3, "vfm_samples": 64 * 4}


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="run all parts")
    for part in ("draw", "clip", "vfm", "write"):
        parser.add_argument(f"--{part}", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=SCENES, help=f"scenes to generate (default {SCENES})")
    parser.add_argument("--clip-samples", type=int, default=CLIP_SAMPLES, help=f"crops (default {CLIP_SAMPLES})")
    parser.add_argument("--vfm-samples", type=int, default=VFM_SAMPLES, help=f"crops (default {VFM_SAMPLES})")
    parser.add_argument("--smoke", action="store_true", help="use only a few samples")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all)")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "mini", help="folder for scenes and checkpoints")
    parser.add_argument("--out", type=Path, default=ROOT / "proxyclip" / "mini", help="folder for the finished files")
    chosen = parser.parse_args(arguments)
    if chosen.smoke:
        vars(chosen).update(SMOKE)
    if chosen.all:
        chosen.draw = chosen.clip = chosen.vfm = chosen.write = True
    return chosen


def check(chosen):
    """InputError for anything that can be checked before the work starts."""
    if not (chosen.draw or chosen.clip or chosen.vfm or chosen.write):
        raise InputError("nothing to do: give --all, or some of --draw, --clip, --vfm, --write")
    if chosen.seed < 0:
        raise InputError(f"--seed must be 0 or more, not {chosen.seed}")
    for option in ("scenes", "clip_samples", "vfm_samples", "threads"):
        if vars(chosen)[option] < 1:
            raise InputError(f"--{option.replace('_', '-')} must be 1 or more, not {vars(chosen)[option]}")
    if chosen.device != "cpu":
        import torch

        if chosen.device != "cuda" or not torch.cuda.is_available():
            raise InputError(f"--device {chosen.device} is not available; use cpu")
    for folder in (chosen.work, chosen.out):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InputError(f"cannot write to the folder {folder}: {error.strerror}") from None


@main_guard
def main(arguments=None):
    chosen = parse(arguments)
    check(chosen)
    import torch

    from tools import mini_clip, mini_data, mini_vfm, mini_words, mini_write

    torch.set_num_threads(chosen.threads)
    (chosen.work / ".gitignore").write_text("*\n")
    vocabulary = chosen.work / "vocabulary.txt.gz"
    mini_words.write_vocabulary(vocabulary)
    clip_checkpoint = chosen.work / f"clip-{chosen.seed}-{chosen.clip_samples}.pt"
    vfm_checkpoint = chosen.work / f"vfm-{chosen.seed}-{chosen.vfm_samples}.pt"
    data = None
    if chosen.draw or chosen.clip or chosen.vfm:
        data = mini_data.Scenes(mini_data.draw_once(chosen.work, chosen.scenes, chosen.threads))
    if chosen.clip:
        mini_clip.train_clip(data, vocabulary, clip_checkpoint, chosen.clip_samples, chosen.seed, chosen.device)
    if chosen.vfm:
        mini_vfm.train_vfm(data, vfm_checkpoint, chosen.vfm_samples, chosen.seed, chosen.device)
    if chosen.write:
        mini_write.write(chosen.out, clip_checkpoint, vfm_checkpoint, vocabulary)


if __name__ == "__main__":
    main()
