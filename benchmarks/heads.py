"""Trainable heads: scores on the synthetic scenes, and speed training speed compared with the plain way.

    python benchmarks/heads.py --jobs 2                                all heads and settings, two seeds; some hours
    python benchmarks/heads.py --heads zegclip --seeds 0 --settings inductive --set iterations=20000 --workdir runs/long
    python benchmarks/heads.py --iteration zegclip                     seconds of a training iteration, and its memory
    python benchmarks/heads.py --iteration otseg --device cuda         the same on a GPU

Scores: each training is `train.py --config HEAD_scenes_SETTING`, a transductive one from the checkpoint of the
inductive one; each evaluation is `eval.py --config cfg_scenes.py`, also for ProxyCLIP and MaskCLIP, which need no
training. Training never sees the labels of the 7 unseen classes, but in the setting "fully". What is complete in
--workdir is not run again. Means over the seeds, with each seed's value in brackets.

Speed: an iteration is prediction, loss, gradients and a step of the optimiser, at the published size: CLIP ViT-B/16
with random weights, crops of 512 × 512, batch 4, 20 classes, 10 prompts per block. The plain implementation
(tests/step_by_step_heads.py) is the same mathematics with explicit attention matrices and losses on one-hot maps.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.measure import TITLES, cells, compare, machine, mean_of, measure, table
from proxyclip.runtime import main_guard

HEADS = ("zegclip", "otseg", "cascade_clip", "cat_seg")
SETTINGS = ("inductive", "transductive", "fully")
COLUMNS = ("pAcc", "mIoU(S)", "mIoU(U)", "hIoU")


def score(options) -> str:
    """Trains and evaluates everything; the table."""
    with ThreadPoolExecutor(options.jobs) as pool:
        baselines = {method: pool.submit(evaluate, options, method) for method in ("maskclip", "proxyclip")}
        chains = {(head, seed): pool.submit(chain, options, head, seed)
                  for head in options.heads for seed in options.seeds}  # fmt: skip
        results = {method: [future.result()] for method, future in baselines.items()}
        for head in options.heads:
            for setting in options.settings:
                results[f"{head}, {setting}"] = [chains[head, seed].result()[setting] for seed in options.seeds]
    rows = [[title, *(mean_of([run[name] for run in runs]) for name in COLUMNS)] for title, runs in results.items()]
    return table(["", *COLUMNS], rows)


def chain(options, head: str, seed: int) -> dict[str, dict]:
    """Setting -> scores of one head and seed; a transductive run starts from the inductive one."""
    results = {}
    for setting in SETTINGS:
        if setting in options.settings or (setting == "inductive" and "transductive" in options.settings):
            folder = options.workdir / f"{head}_{setting}_{seed}"
            command = ["train.py", "--config", f"{head}_scenes_{setting}", "--workdir", folder, "--seed", seed]
            command += ["--resume", *(["--set", *options.set] if options.set else [])]
            if setting == "transductive":
                command += ["--init-from", options.workdir / f"{head}_inductive_{seed}"]
            run(options, command)
            results[setting] = evaluate(options, folder)
    return results


def evaluate(options, subject: str | Path) -> dict:
    """Scores of a method or of a checkpoint on the test scenes, in percent."""
    file = options.workdir / "scores" / f"{Path(subject).name}.json"
    if not file.exists():
        model = ["--preset", "mini", "--method"] if isinstance(subject, str) else ["--checkpoint"]
        outputs = ["--json", file, "--workdir", file.with_suffix("")]
        run(options, ["eval.py", "--config", "scenes", *model, subject, *outputs])
    scores = json.loads(file.read_text())["zero_shot"]["scenes"]
    return {name: scores[name] for name in COLUMNS}


def run(options, command: list) -> None:
    """Runs a script of this repository with this process's share of the cores; an error ends the benchmark."""
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // options.jobs))}
    command = [sys.executable, *map(str, command)]
    if code := subprocess.run(command, cwd=ROOT, env=environment).returncode:
        raise SystemExit(f"{' '.join(command[1:])} ended with exit code {code}")


def compare_iterations(options) -> str:
    """A table with a row for each way of computing a training iteration."""
    job = {name: getattr(options, name) for name in ("iteration", "size", "batch", "device")}
    ways = {"plain": (True, "fp32"), "fp32": (False, "fp32"), "bf16": (False, "bf16")}
    jobs = {way: job | {"plain": plain, "precision": precision} for way, (plain, precision) in ways.items()}
    results = compare(__file__, jobs, options.rounds)
    rows = [[way, *cells(rounds, results["plain"]), f"{rounds[0]['loss']:.6g}", f"{rounds[0]['gradients']:.6g}"]
            for way, rounds in results.items()]  # fmt: skip
    return table([options.iteration, *TITLES, "loss", "norm of the gradients"], rows)


def one(job: dict) -> dict:
    """A process of its own: the time and memory of an iteration, its loss, and the norm of its gradients."""
    small = {"size": 64, "batch": 1} if job["device"] == "cpu" else {}
    iteration(job | small)()  # the first run also allocates and, on a GPU, chooses kernels
    run, values = iteration(job), {}
    return measure(lambda: values.update(run())) | values


def iteration(job: dict):
    """A function that computes a training iteration. Dropout is off, and the learning rate is 0."""
    import step_by_step_heads
    import torch
    import torch.nn.functional as F

    from heads import find_head
    from heads.losses import mask_loss
    from proxyclip.backbones import build_clip

    torch.manual_seed(0)
    size, module, names = job["size"], find_head(job["iteration"]), tuple(f"thing {index}" for index in range(20))
    more = {"templates": tuple(f"{{}} {index}." for index in range(6))} if job["iteration"] == "otseg" else {}
    sides = dict.fromkeys(("image_size", "crop", "stride", "short_side"), size)
    options = module.Options(prompts=10, dropout=0.0, **sides, **more)
    head = module.Head(build_clip.load("ViT-B-16-quickgelu:random"), options, names, names).to(job["device"]).train()
    prompts = () if head.AVERAGE_PROMPTS else (len(options.templates),)
    text = F.normalize(torch.randn(20, *prompts, head.clip.visual.proj.shape[1]), dim=-1).to(job["device"])
    coarse = torch.rand(job["batch"], 3, 12, 12), torch.randn(job["batch"], 21, 6, 6)
    images, maps = (F.interpolate(one, (size, size), mode="bicubic").to(job["device"]) for one in coarse)
    images, labels = images.clamp(0, 1), maps.argmax(1) - 1  # (B, 3, c, c), (B, c, c); -1: no label
    optimiser = torch.optim.AdamW([one for one in head.parameters() if one.requires_grad], lr=0.0, weight_decay=0.0)
    precision = {"fp32": torch.float32, "bf16": torch.bfloat16}[job["precision"]]

    def run() -> dict[str, float]:
        optimiser.zero_grad()
        with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
            if job["plain"]:
                loss = step_by_step_heads.loss(step_by_step_heads.predict(head, images, text), labels)
            else:
                loss = sum(sum(mask_loss(one, labels).values()) for one in head(images, text).values())
        loss.backward()
        optimiser.step()
        gradients = [one.grad for one in head.parameters() if one.grad is not None]
        return {"loss": loss.item(), "gradients": torch.nn.utils.get_total_norm(gradients).item()}

    return run


@main_guard
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    add("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    add("--seeds", nargs="+", type=int, default=[0, 1])
    add("--jobs", type=int, default=1, help="trainings at a time, which share the cores (default: 1)")
    add("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="passed to train.py")
    add("--workdir", type=Path, default=Path("runs/heads"))
    add("--iteration", choices=("zegclip", "otseg", "cascade_clip"), help="only measure training iterations")
    add("--size", type=int, default=512, help="of the crops of an iteration, in pixels (default: 512)")
    add("--batch", type=int, default=4, help="images of an iteration (default: 4)")
    add("--rounds", type=int, default=2)
    add("--device", default="cpu", help="of an iteration: cpu (default) or cuda")
    add("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(one(options.one)))
        return
    print(f"{machine()}\n")
    print(compare_iterations(options) if options.iteration else score(options))


if __name__ == "__main__":
    main()
