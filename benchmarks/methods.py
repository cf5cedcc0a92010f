"""Training-free methods on the synthetic scenes under one protocol: scores, cost, and what settings do.

    python benchmarks/methods.py --more work/mini/seed1             scores and cost, means over two trained pairs
    python benchmarks/methods.py --methods clip maskclip proxyclip --limit 500 --without-cost
    python benchmarks/methods.py --picture docs/methods.png         in addition: mIoU and seconds as a picture
    python benchmarks/methods.py --settings gamma windows           one setting of ProxyCLIP changed at a time
    python benchmarks/methods.py --choose --limit 60                what settings reach on the scenes of "tune"

Scores: the embedded pair (--more: and those of other training runs, written by tools/train_mini.py --out FOLDER), 24
classes of one name each, scenes of 128 × 128 pixels. Windows, names, prompts and scale are the same for all methods.
Each has the settings that were chosen for it on "tune", which mini.json contains; "published settings" are those of its
paper. Two processes of one thread each.

Cost: one image of 500 × 375 pixels with 21 classes, a CLIP ViT-B/16 of random weights, and DINO ViT-B/8 where a method
needs it: processor time of one thread, the fastest of three.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measure import in_a_process, machine, mean_of, measure, table
from datasets import scenes
from proxyclip.evaluation.metrics import confusion, scores
from proxyclip.methods import _training_free, find_method, method_names
from proxyclip.runtime import main_guard
from proxyclip.vocabulary import Vocabulary

SCORES = ("mIoU", "stuff", "things", "pixel accuracy")
MINI = ROOT / "proxyclip" / "mini"
PAMR = "pamr:dilations=2,4"  # the published 8 and 16 are for larger images; chosen on "tune" for all methods together
GRIDS = {  # what --choose chooses from, in addition to the published settings
    "gem": [{"blocks": blocks, "iterations": steps} for blocks in (1, 2, 3) for steps in (0, 1)],
    "glaclip": [{"similarity": s, "gamma_growth": g} for s in (0.75, 0.9, 0.97) for g in (300.0, 1000.0, 3000.0)],
    "naclip": [{"std": std} for std in (1.0, 1.5, 2.0, 3.0)],
    "pearl": [{"alpha": alpha} for alpha in (0.0, 0.3, 1.0, 3.0)],
    "resclip": [{"std": std, "residual_weight": w} for std in (1.0, 2.0, 5.0) for w in (0.1, 0.3, 0.6)],
    "scclip": [{"min_similarity": s, "class_weight": w} for s in (0.4, 0.6, 0.8, 0.9) for w in (0.0, 0.3)],
    "proxyclip": [{"beta": b, "gamma": g} for b in (1.0, 1.2, 1.4) for g in (3.0, 10.0, 20.0, 40.0)],
}
SETTINGS = {
    "beta": {f"β {beta:g}": {"beta": beta} for beta in (0.0, 0.8, 1.0, 1.4, 1.6)},
    "gamma": {f"γ {gamma:g}": {"gamma": gamma} for gamma in (1.0, 3.0, 10.0, 40.0, 80.0)},
    "layer": {f"after block {layer} of 4": {"vfm_layer": layer} for layer in (1, 3, 4)},
    "windows": {
        "windows of 64, stride 64": {"stride": 64},
        "windows of 64, stride 16": {"stride": 16},
        "windows of 48, stride 24": {"crop": 48, "stride": 24},
        "windows of 96, stride 32": {"crop": 96, "stride": 32},
        "no windows: whole image at once": {"crop": 0},
        "image at 96, windows of 64, stride 32": {"short_side": 96},
        "image at 192, windows of 64, stride 32": {"short_side": 192},
    },
}


def load(method: str, folder: Path, **options):
    """The pair in a folder, with the settings in its mini.json."""
    import proxyclip

    stored = json.loads((folder / "mini.json").read_text())
    chosen = {"clip": str(folder / "clip")} | stored["options"] | stored["methods"].get(method, {})
    if find_method(method).NEEDS_VFM:
        chosen |= {"vfm": f"dino:{folder / 'vfm'}", "vfm_layer": stored["vfm_layer"]}
    return proxyclip.load(method=method, device="cpu", **chosen | options)


def confusions(method: str, folder: Path, seeds: range, options: dict) -> np.ndarray:
    """The confusion matrix of each scene: (S, K, K) int64."""
    import torch

    torch.set_num_threads(1)
    drawn = [scenes.draw(seed) for seed in seeds]
    model = load(method, folder, **options)
    results = model.segment_each([image for image, _ in drawn], scenes.CLASSES)
    return np.stack([confusion(one.labels, label, 24) for one, (_, label) in zip(results, drawn, strict=True)])


def summary(matrix: np.ndarray) -> dict[str, float]:
    """(K, K) -> mIoU over all classes, stuff and things, and pixel accuracy, in percent."""
    every = scores(matrix)
    iou, count = np.array(every["per_class"]["IoU"], float), len(scenes.STUFF)  # (K,), stuff first
    values = every["mIoU"], np.nanmean(iou[:count]), np.nanmean(iou[count:]), every["aAcc"]
    return dict(zip(SCORES, values, strict=True))


def published(method: str) -> dict:
    """The settings of the paper, in place of those chosen for the embedded pair."""
    shared = {entry.name for entry in fields(_training_free.Options)}
    return {entry.name: entry.default for entry in fields(find_method(method).Options) if entry.name not in shared}


def difference(changed: list[np.ndarray], default: list[np.ndarray]) -> str:
    """Change in mIoU in points, the mean over trainings, and its standard error over scenes (bootstrap)."""
    random, count = np.random.default_rng(0), len(default[0])

    def between(chosen) -> float:
        pairs = zip(changed, default, strict=True)
        return statistics.mean(scores(a[chosen].sum(0))["mIoU"] - scores(b[chosen].sum(0))["mIoU"] for a, b in pairs)

    error = statistics.stdev(between(random.integers(0, count, count)) for _ in range(200))
    return f"{round(between(np.arange(count)), 1) + 0.0:+.1f} ± {error:.1f}".replace("-", "−")


def changes(pool, options, variants: dict[str, dict]) -> None:
    """Prints a table: ProxyCLIP as it is, and with one option changed in each row."""
    matrices = score(pool, options, [("proxyclip", settings) for settings in [{}, *variants.values()]])
    rows = []
    for title, one in zip(["default", *variants], matrices, strict=True):
        means = [mean_of([summary(matrix.sum(0))[name] for matrix in one]) for name in SCORES[:3]]
        rows.append([title, *means, "–" if title == "default" else difference(one, matrices[0])])
    print(table(["", *SCORES[:3], "difference"], rows), end="\n\n", flush=True)


def score(pool, options, runs: list[tuple[str, dict]]) -> list[list[np.ndarray]]:
    """The confusion matrices of all scenes (S, K, K), for each method with its settings, for each trained pair."""
    jobs = [(method, folder, options.seeds, settings) for method, settings in runs for folder in options.trainings]
    matrices, count = list(pool.map(confusions, *zip(*jobs, strict=True))), len(options.trainings)
    return [matrices[first : first + count] for first in range(0, len(jobs), count)]


def compare(pool, options) -> list[dict]:
    """One row for each method: title, scores of all trainings for three kinds of settings, cost; the worst first."""
    rows = []
    for method in options.methods:
        matrices = score(pool, options, [(method, published(method)), (method, {}), (method, {"refine": PAMR})])
        scored = [[summary(matrix.sum(0)) for matrix in one] for one in matrices]
        row = {"method": find_method(method).Method.method} | dict(
            zip(("published", "own", "PAMR"), scored, strict=True)
        )
        if options.picture or not options.without_cost:
            jobs = {"cost": {"method": method, "refine": None}, "PAMR's cost": {"method": method, "refine": "pamr"}}
            row |= {name: in_a_process(__file__, job, threads=1) for name, job in jobs.items()}
        rows.append(row)
    return sorted(rows, key=lambda row: statistics.mean(one["mIoU"] for one in row["own"]))


def cost(job: dict) -> dict:
    """A process of its own: seconds of processor time for an image."""
    import proxyclip

    vfm = "dino-vitb8:random" if find_method(job["method"]).NEEDS_VFM else None
    pair = {"clip": "ViT-B-16:random", "vfm": vfm, "device": "cpu", "templates": ("a {}.",)}
    model = proxyclip.load(method=job["method"], refine=job["refine"], **pair)
    image = np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8)
    names = [f"name {index}" for index in range(21)]
    model.encode_classes(Vocabulary.parse(names))
    return {"seconds": min(measure(lambda: model.segment(image, names))["processor"] for _ in range(3))}


def report(rows: list[dict]) -> str:
    columns = [("published", "mIoU"), *(("own", name) for name in SCORES), ("PAMR", "mIoU")]
    cells = [[mean_of([one[name] for one in row[kind]]) for kind, name in columns] for row in rows]
    titles = ["method", "mIoU, published settings", *SCORES, "mIoU with PAMR"]
    if "cost" in rows[0]:
        titles += ["s an image", "s with PAMR"]
        for line, row in zip(cells, rows, strict=True):
            line += [f"{row[name]['seconds']:.2f}" for name in ("cost", "PAMR's cost")]
    return table(titles, [[row["method"], *line] for row, line in zip(rows, cells, strict=True)])


def picture(path: Path, rows: list[dict]) -> None:
    """mIoU without and with PAMR on the left, seconds for an image on the right; one line per method."""
    from matplotlib.figure import Figure

    left, right = (figure := Figure((10, 5), layout="constrained")).subplots(1, 2, sharey=True)
    titles = [row["method"] for row in rows]
    for label, scored, paid in (("without refinement", "own", "cost"), ("with PAMR", "PAMR", "PAMR's cost")):
        left.scatter([statistics.mean(one["mIoU"] for one in row[scored]) for row in rows], titles)
        right.scatter([row[paid]["seconds"] for row in rows], titles, label=label)
    left.set_xlabel("mIoU on the synthetic scenes, %")
    right.set(xlabel="seconds for an image of 500×375 pixels (ViT-B/16, one thread)", xlim=0)
    right.legend(loc="lower right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle("Training-free methods under one protocol")
    figure.savefig(path, dpi=100)


def choose(pool, options) -> None:
    """Prints what each method reaches with each of its settings."""
    for method in options.methods:
        grid = [{}, *GRIDS.get(method, [])]
        matrices = score(pool, options, [(method, published(method) | settings) for settings in grid])
        reached = [statistics.mean(scores(matrix.sum(0))["mIoU"] for matrix in one) for one in matrices]
        for value, settings in sorted(zip(reached, map(json.dumps, grid), strict=True), reverse=True):
            print(f"{method:<11}{value:6.2f}  {settings}", flush=True)


@main_guard
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--methods", nargs="+", choices=method_names(), default=method_names(), metavar="METHOD")
    add("--more", type=Path, nargs="+", default=[], metavar="FOLDER", help="pairs of other training runs")
    add("--limit", type=int, default=200, metavar="N", help="the first N scenes (default: 200)")
    add("--without-cost", action="store_true")
    add("--picture", type=Path, metavar="FILE")
    add("--settings", nargs="+", choices=SETTINGS, metavar="TABLE", help=", ".join(SETTINGS))
    add("--choose", action="store_true")
    add("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(cost(options.one)))
        return
    options.trainings = [MINI, *options.more]
    options.seeds = scenes.SPLITS["tune" if options.choose else "test"][: options.limit]
    print(f"{machine()}; {len(options.seeds)} scenes, {len(options.trainings)} training runs\n")
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        if options.choose:
            choose(pool, options)
        for name in options.settings or ():
            changes(pool, options, SETTINGS[name])
        if options.choose or options.settings:
            return
        rows = compare(pool, options)
    print(report(rows))
    if options.picture:
        picture(options.picture, rows)


if __name__ == "__main__":
    main()
