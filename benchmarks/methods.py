"""All training-free methods under one protocol: mIoU on the synthetic scenes without and with PAMR, and what they cost.

    python benchmarks/methods.py --more work/mini/seed1                means over two training runs; half an hour
    python benchmarks/methods.py --only naclip proxyclip --limit 100   some methods, the first 100 scenes
    python benchmarks/methods.py --picture FILE.png --sheet FILE.xlsx  in addition: mIoU against cost, and a workbook
    python benchmarks/methods.py --choose                              chooses settings on the scenes of "tune"

Scores: the embedded pair, 24 classes, scenes of 128 x 128 pixels. Windows, names, prompts and logit scale are the same
for all methods. Each has the settings that were chosen for it on the split "tune" (--choose), which mini.json contains;
the column "published settings" has those of its paper instead.

Cost: one image of 500 x 375 pixels, 21 classes, with a CLIP ViT-B/16 of random weights (and DINO ViT-B/8), one thread:
seconds of processor time, the fastest of three, and the most memory beyond the loaded model. Every row is measured in a
process of its own: scores two at a time, costs one at a time. Results are kept in --work: an interrupted run goes on.
"""

import argparse
import itertools
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import fields
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets import scenes  # noqa: E402
from proxyclip.errors import InputError
from proxyclip.files import writable_folder, write_json  # noqa: E402
from proxyclip.methods import find_method, method_names  # noqa: E402
from proxyclip.runtime import main_guard  # noqa: E402
from proxyclip.vocabulary import Vocabulary  # noqa: E402

# The published 8 and 16 are for larger images. Chosen on the split "tune" for all methods together.
PAMR = {"scores": "pamr:dilations=2,4", "cost": "pamr"}
GRIDS = {  # what --choose chooses from, in addition to the published settings
    "gem": [{"blocks": blocks, "iterations": steps} for blocks in (1, 2, 3) for steps in (0, 1)],
    "glaclip": [{"similarity": s, "gamma_growth": g} for s in (0.75, 0.9, 0.97) for g in (300.0, 1000.0, 3000.0)],
    "naclip": [{"std": std} for std in (1.0, 1.5, 2.0, 3.0)],
    "pearl": [{"alpha": alpha} for alpha in (0.0, 0.3, 1.0, 3.0)],
    "resclip": [{"std": std, "residual_weight": w} for std in (1.0, 2.0, 5.0) for w in (0.1, 0.3, 0.6)],
    "scclip": [{"min_similarity": s, "class_weight": w} for s in (0.4, 0.6, 0.8, 0.9) for w in (0.0, 0.3)],
    "proxyclip": [{"beta": b, "gamma": g} for b in (1.0, 1.2, 1.4) for g in (3.0, 10.0, 20.0, 40.0)],
}
TUNE_SCENES, ROUNDS, SIZE, CLASSES = 60, 3, (375, 500), 21


def published(method: str) -> dict:
    """The settings of the paper, in place of those chosen for the embedded pair."""
    from proxyclip.methods import _training_free

    shared = {entry.name for entry in fields(_training_free.Options)}
    return {entry.name: entry.default for entry in fields(find_method(method).Options) if entry.name not in shared}


def chosen(method: str) -> dict:
    """No settings but those of the embedded pair."""
    return {}


def mean_scores(method: str, folder: Path | None, split: str, limit: int, options: str, pamr: bool = True) -> list:
    """mIoU in percent, without and with PAMR. options: JSON."""
    import torch

    from benchmarks.scenes import load
    from proxyclip.evaluation.metrics import confusion, scores
    from proxyclip.refine import read_refinement
    from proxyclip.segmentor import Sample

    torch.set_num_threads(1)
    vocabulary = Vocabulary.parse(scenes.CLASSES)
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(options).items()}
    model = load(folder, method=method, **given)
    refinements = [None, read_refinement(PAMR["scores"]).build()] if pamr else [None]
    found = [np.zeros((len(scenes.CLASSES),) * 2, np.int64) for _ in refinements]  # (K, K) each
    with torch.inference_mode():
        text = model.encode_classes(vocabulary)
        for image, ground_truth in map(scenes.draw, scenes.SPLITS[split][:limit]):
            prepared = model.prepare(image)  # (3, h, w)
            views = model.image_scores(prepared, text)
            for matrix, model.refinement in zip(found, refinements, strict=True):
                sample = Sample(prepared, image.shape[:2])
                decided = model.decide(views, prepared, sample, vocabulary, rule=model.label_rule)
                matrix += confusion(decided.labels.numpy(), ground_truth, len(scenes.CLASSES))
    return [scores(matrix)["mIoU"] for matrix in found]


def cost(method: str, refine: str) -> list:
    """Seconds of processor time, MiB beyond the loaded model, and seconds with a refinement."""
    import torch

    import proxyclip
    from proxyclip.refine import read_refinement

    torch.set_num_threads(1)
    vfm = "dino-vitb8:random" if find_method(method).NEEDS_VFM else None
    model = proxyclip.load(clip="ViT-B-16:random", vfm=vfm, method=method, templates=("a {}.",))
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    names, found = [f"name {index}" for index in range(CLASSES)], []
    model.encode_classes(Vocabulary.parse(names))
    loaded = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest use of memory so far is forgotten
    for model.refinement in (None, read_refinement(refine).build()):
        seconds = []
        for _ in range(ROUNDS):
            begun = time.process_time()
            model.segment(image, names)
            seconds.append(time.process_time() - begun)
        found += [min(seconds), memory("VmHWM") - loaded]
    return found[:3]


def memory(entry: str) -> float:
    """MiB of this process, as Linux counts them."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) / 1024


def choose(pool, methods: list[str]) -> None:
    """Prints what each method reaches on the split "tune" with each of its settings, and the best of them."""
    best_of = {}
    for method in methods:
        settings = [published(method), *GRIDS.get(method, [])]
        tasks = [(method, None, "tune", TUNE_SCENES, json.dumps(published(method) | one), False) for one in settings]
        reached = [value for (value,) in pool.map(mean_scores, *zip(*tasks, strict=True))]
        for one, value in zip(settings, reached, strict=True):
            print(f"{method:<11}{value:6.2f}  {json.dumps(one)}", flush=True)
        best = settings[reached.index(max(reached))]
        best_of[method] = {name: value for name, value in best.items() if value != published(method)[name]}
    print(json.dumps(best_of, indent=1))


class Kept:
    """Results by what was computed, kept in a file, so that an interrupted run goes on where it was."""

    def __init__(self, path: Path):
        self.path = path
        self.results = json.loads(path.read_text()) if path.is_file() else {}

    def all(self, pool, function, tasks: list[tuple]) -> dict:
        """Task -> result of all tasks."""
        keys = {task: f"{function.__name__} {task}" for task in tasks}
        waiting = {pool.submit(function, *task): task for task, key in keys.items() if key not in self.results}
        for future in as_completed(waiting):
            self.results[keys[waiting[future]]] = future.result()
            write_json(self.path, self.results)
            print(f"{keys[waiting[future]]}: {future.result()}", file=sys.stderr, flush=True)
        return {task: self.results[key] for task, key in keys.items()}


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--more", type=Path, nargs="+", default=[], metavar="FOLDER", help="more training runs")
    parser.add_argument("--only", nargs="+", choices=method_names(), default=method_names(), metavar="METHOD")
    parser.add_argument("--limit", type=int, default=200, metavar="N", help="first N test scenes (default: 200)")
    parser.add_argument("--choose", action="store_true", help='only choose settings on the scenes of "tune"')
    parser.add_argument("--work", type=Path, default=Path("work/methods"), help="folder for results so far")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="mIoU against cost")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="the table as a workbook")
    options = parser.parse_args()
    if options.limit < 1:
        raise InputError(f"--limit must be at least 1, not {options.limit}")
    spawn, trainings = multiprocessing.get_context("spawn"), [None, *options.more]
    kept = Kept(writable_folder(options.work) / "methods.json")
    with ProcessPoolExecutor(2, spawn) as pool:
        if options.choose:
            choose(pool, options.only)
            return
        every = itertools.product(trainings, (chosen, published), options.only)
        tasks = [(method, run, "test", options.limit, json.dumps(settings(method))) for run, settings, method in every]
        scores = kept.all(pool, mean_scores, tasks)
    with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as pool:
        costs = kept.all(pool, cost, [(method, PAMR["cost"]) for method in options.only])
    from benchmarks.cpu import processor
    from benchmarks.methods_report import Row, markdown, picture, sheet

    rows = []
    for method in options.only:
        own = [
            [scores[method, run, "test", options.limit, json.dumps(settings(method))] for run in trainings]
            for settings in (published, chosen)
        ]
        found = [plain for plain, _ in own[0]], [plain for plain, _ in own[1]], [refined for _, refined in own[1]]
        rows.append(Row(find_method(method).Method.method, *found, *costs[method, PAMR["cost"]]))
    rows.sort(key=lambda row: row.mean("plain"))
    print(f"{processor()}; {options.limit} scenes, {len(trainings)} training runs\n\n{markdown(rows)}")
    if options.picture:
        print(picture(options.picture, rows))
    if options.sheet:
        print(sheet(options.sheet, rows))


if __name__ == "__main__":
    main()
