"""Trains the heads on the synthetic scenes with the embedded CLIP, and measures them on the test scenes.

    python benchmarks/heads.py --workdir runs/heads                         all heads and settings, two seeds
    python benchmarks/heads.py --heads zegclip --seeds 0 --settings inductive
    python benchmarks/heads.py --jobs 2                                     two trainings at a time, a core each
    python benchmarks/heads.py --heads zegclip --settings inductive --set iterations=20000 --workdir runs/long

Each training is `train.py --config HEAD_scenes_SETTING`, a transductive one from the checkpoint of the inductive one;
each evaluation is `eval.py --config cfg_scenes.py`, also for ProxyCLIP and for CLIP's values alone (MaskCLIP), which
need no training. Training never sees the labels of the 7 unseen classes, but in the setting "fully". What is complete
in --workdir is not run again. Prints a Markdown table: means over the seeds, with each seed's value in brackets.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.cpu import processor  # noqa: E402
from proxyclip.files import write_json  # noqa: E402
from proxyclip.runtime import main_guard  # noqa: E402

HEADS = {"zegclip": "ZegCLIP", "otseg": "OTSeg", "cascade_clip": "Cascade-CLIP", "cat_seg": "CAT-Seg"}
SETTINGS = ("inductive", "transductive", "fully")
BASELINES = {"maskclip": "values only (MaskCLIP)", "proxyclip": "ProxyCLIP"}
COLUMNS = ("pAcc", "mIoU(S)", "mIoU(U)", "hIoU")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    add("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    add("--seeds", nargs="+", type=int, default=[0, 1])
    add("--jobs", type=int, default=1, help="trainings at a time, which share the cores (default: 1)")
    add("--set", nargs="+", default=[], metavar="FIELD=VALUE", dest="extra", help="passed to train.py")
    add(
        "--precision",
        default="fp32",
        help="of training: fp32 (default) or bf16, which is no faster here",
    )
    add("--workdir", type=Path, default=Path("runs/heads"))
    add("--data-root", type=Path, help="where the scenes are kept (default: $PROXYCLIP_DATA or data/)")
    return parser.parse_args()


@main_guard
def main() -> None:
    options = parse()
    with ThreadPoolExecutor(options.jobs) as pool:
        baselines = {method: pool.submit(evaluate, options, method) for method in BASELINES}
        chains = {
            (head, seed): pool.submit(chain, options, head, seed) for head in options.heads for seed in options.seeds
        }
        found = {BASELINES[method]: [future.result()] for method, future in baselines.items()}
        runs = {key: future.result() for key, future in chains.items()}
    for head in options.heads:
        for setting in options.settings:
            found[f"{HEADS[head]}, {setting}"] = [runs[head, seed][setting] for seed in options.seeds]
    print(f"\n{processor()}, {os.cpu_count()} cores, {options.jobs} trainings at a time, {date.today()}\n")
    print(table(found))


def chain(options, head: str, seed: int) -> dict[str, dict]:
    """Setting -> scores of one head and seed; a transductive run starts from the inductive one."""
    found = {}
    for setting in SETTINGS:
        if setting in options.settings or (setting == "inductive" and "transductive" in options.settings):
            folder = options.workdir / f"{head}_{setting}_{seed}"
            started = time.perf_counter()
            train(options, head, setting, seed, folder)
            found[setting] = evaluate(options, folder) | {"minutes": minutes(folder, time.perf_counter() - started)}
    return found


def train(options, head: str, setting: str, seed: int, folder: Path) -> None:
    """Trains, or continues what is there; returns at once if it is complete."""
    command = ["train.py", "--config", f"{head}_scenes_{setting}", "--workdir", folder, "--seed", seed, "--resume"]
    command += ["--precision", options.precision]
    if setting == "transductive":
        command += ["--init-from", options.workdir / f"{head}_inductive_{seed}"]
    run(options, [*command, *(["--set", *options.extra] if options.extra else [])])


def evaluate(options, subject: str | Path) -> dict:
    """Scores of a method or of a checkpoint on the test scenes, in percent."""
    checkpoint = isinstance(subject, Path)
    name = subject.name if checkpoint else subject
    file = options.workdir / "scores" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        model = ["--checkpoint", subject] if checkpoint else ["--preset", "mini", "--method", subject]
        run(
            options,
            ["eval.py", "--config", "cfg_scenes.py", *model, "--json", file, "--workdir", file.with_suffix("")],
        )
    scores = json.loads(file.read_text())["zero_shot"]["scenes"]
    return {name: scores[name] for name in COLUMNS}


def run(options, command: list) -> None:
    """Runs a script of this repository with this process's share of the cores; an error ends the benchmark."""
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    root = ["--data-root", options.data_root] if options.data_root else []
    command = [sys.executable, *map(str, [*command, *root])]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} ended with exit code {done.returncode}")


def minutes(folder: Path, measured: float) -> float:
    """How long a training took; kept in a file, as a complete training is not run again."""
    file = folder / "minutes.json"
    if not file.exists():
        write_json(file, {"minutes": measured / 60})
    return json.loads(file.read_text())["minutes"]


def table(rows: dict[str, list[dict]]) -> str:
    """A Markdown table of means over seeds, with each seed's value in brackets if there are several."""
    lines = ["| | " + " | ".join(COLUMNS) + " | minutes |", "| --- |" + " --- |" * (len(COLUMNS) + 1)]
    for title, runs in rows.items():
        texts = []
        for column in COLUMNS:
            values = [run[column] for run in runs]
            each = f" ({', '.join(f'{value:.1f}' for value in values)})" if len(values) > 1 else ""
            texts.append(f"{statistics.mean(values):.1f}{each}")
        time_taken = [run["minutes"] for run in runs if "minutes" in run]
        texts.append(f"{statistics.mean(time_taken):.0f}" if time_taken else "")
        lines.append(f"| {title} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
