"""Segments an image by class names and writes the result as an overlay with a legend.

python demo.py                                                   a synthetic scene, embedded models; works offline
python demo.py --compare naclip,maskclip,proxyclip               the same scene, other methods
python demo.py scene.png --classes "sky, sea; ocean, boat"       commas separate classes, semicolons names of a class
python demo.py photo.jpg --classes words.txt --preset vitb16-dino --heatmap grass    published models, for photographs
python demo.py photo.jpg --classes "cat, sofa" --checkpoint-clip FILE --checkpoint-vfm FILE    local checkpoints
python demo.py photo.jpg --classes "cat, sofa" --checkpoint runs/zeg_voc                       a trained head
"""

import argparse
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

import heads
import proxyclip
from configs.load import trained_as
from datasets import scenes
from datasets.scenes.dataset import SyntheticScenes
from proxyclip.command.model_options import PRESET, ModelChoice, add_model_options, chosen_model, new_parser
from proxyclip.errors import InputError
from proxyclip.evaluation.metrics import confusion, scores
from proxyclip.files import output_names, writable_folder, write_image
from proxyclip.images import read_image
from proxyclip.methods import find_method
from proxyclip.pictures.overlay import comparison, display_size, heatmap, overlay, smooth
from proxyclip.runtime import main_guard
from proxyclip.vocabulary import Vocabulary, parse_classes_argument, with_background

OPTIONS = ("short-side", "crop", "stride", "logit-scale", "beta", "gamma")  # as --set takes them, too
SCENE, SCENE_SIZE = 9, 512  # a test scene, on which nothing was trained or tuned; pixels
METHODS = "clip,maskclip,proxyclip"
TEXT = 20  # pixels
MOST_COMPARED = 3


def arguments() -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("photo", nargs="?", help="an image file (default: a synthetic scene)")
    add("--classes", metavar="LIST", help='"cat; kitten, grass, sky", or FILE.txt, one class per line')
    what = f"a figure of up to three methods side by side, e.g. naclip,proxyclip (default without an image: {METHODS})"
    add("--compare", metavar="METHODS", help=what)
    what = "a class for everything else: threshold, or vocabulary (default: none)"
    add("--background", metavar="KIND", default="none", help=what)
    add("--threshold", type=float, help="pixels below this probability are background")
    add("--heatmap", metavar="CLASS", action="append", default=[], help="also write this probability map")
    add("--out", default="out", metavar="DIR", help="output folder (default: out)")
    add("--list", action="store_true", help="list the presets and exit")
    add_model_options(parser, heads=True)
    for name in OPTIONS:
        add(f"--{name}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.changed = {name for name, value in vars(options).items() if value != parser.get_default(name)}
    fields = (name.replace("-", "_") for name in OPTIONS)
    options.settings = options.settings + [
        f"{name}={getattr(options, name)}" for name in fields if name in options.changed
    ]
    return options


def trained(checkpoint, train_config, **options):
    """The plan of a trained head, without loading its weights."""
    return heads.plan(checkpoint, **trained_as(train_config), **options)


@main_guard
def main() -> None:
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # a sentence, as errors are
    options = arguments()
    if options.list:
        proxyclip.presets()
        return
    choice = chosen_model(options, trained)
    methods = [name.strip() for name in (options.compare or "").split(",") if name.strip()]
    check_compared(options, methods)
    if options.photo is None:
        if options.changed - {"compare", "out", "device", "precision"}:
            raise InputError(
                "these options need an image: without one, the demo runs the embedded models on a synthetic scene"
            )
        show_scene(writable_folder(options.out), methods or METHODS.split(","), choice)
        return
    if options.classes is None:
        raise InputError('--classes is missing: say what to look for, e.g. --classes "cat, grass, sky"')

    # Validate input before loading models, so a typo does not cost a download.
    vocabulary = Vocabulary.parse(parse_classes_argument(options.classes))
    if not 0 <= (options.threshold or 0) <= 1:
        raise InputError(f"--threshold is {options.threshold}; it must be a probability between 0 and 1")
    vocabulary, threshold = with_background(vocabulary, options.background, options.threshold)
    heatmaps = [vocabulary.names[vocabulary.index(name)] for name in options.heatmap]
    photo = Path(options.photo)
    image = read_image(photo)  # (H, W, 3)
    output_names(photo.stem, heatmaps)
    folder = writable_folder(options.out)
    planned = choice.plan()

    if choice.options.get("preset") == "mini":
        print(
            f"the embedded models know synthetic scenes only; for photographs use --preset {PRESET} (0.9 GB download)"
        )
    started = time.perf_counter()
    model = planned.build()
    loaded = time.perf_counter()
    result = model.segment(image, vocabulary, threshold=threshold, probabilities=heatmaps, names=photo.stem)
    finished = time.perf_counter()
    written = result.save(folder, photo.stem)
    if methods:
        compare(folder, methods, choice, image, photo.stem, classes=vocabulary, threshold=threshold)

    height, width = result.labels.shape
    print(f"{photo.name}: {width}x{height} pixels, {len(result.classes)} classes")
    for name, area in sorted(result.areas().items(), key=lambda item: -item[1])[:10]:
        print(f"  {100 * area:5.1f} %  {name}")
    print(f"loaded in {loaded - started:.1f} s, segmented in {finished - loaded:.1f} s")
    for key, path in written.items():
        print(f"{key}: {path}")


def compare(folder: Path, methods: list[str], choice: ModelChoice, image: np.ndarray, stem: str, **options) -> None:
    """The image and each method's prediction, as one figure."""
    results = {}
    for method in methods:
        model = with_method(choice, method).plan().build()
        results[model.method] = model.segment(image, names=stem, **options)
    found = list(results.values())
    plain = Image.fromarray(smooth(image, display_size(*image.shape[:2])))
    row = {"image": plain} | {title: one.overlay(legend=False) for title, one in results.items()}
    sheet = comparison([row], found[0].classes, found[0].colours(), [one.labels for one in found], found[0].text_size())
    print(f"comparison: {write_image(folder / f'{stem}_compare.png', sheet)}")


def with_method(choice: ModelChoice, method: str) -> ModelChoice:
    return replace(choice, options=choice.options | {"method": method})


def check_compared(options, methods: list[str]) -> None:
    """InputError unless these methods can be compared."""
    if options.compare is None:
        return
    if options.checkpoint or options.method:
        raise InputError("--compare names the methods: leave out --method and --checkpoint")
    if not 1 <= len(methods) <= MOST_COMPARED:
        raise InputError(f"--compare names {len(methods)} methods; name 1 to {MOST_COMPARED}, separated by commas")
    for name in methods:
        find_method(name)


def show_scene(folder: Path, methods: list[str], choice: ModelChoice) -> None:
    """One synthetic scene with its ground truth and each method's prediction, as one figure."""
    started = time.perf_counter()
    image, ground_truth = scenes.draw(SCENE, SCENE_SIZE)  # (H, W, 3), (H, W)
    colours = np.array(SyntheticScenes().colours, np.uint8)  # (K, 3)
    panel = partial(overlay, image, colours=colours, alpha=0.7)
    results, lower = {}, {}
    for method in methods:
        model = with_method(choice, method).plan().build()
        results[model.method] = result = model.segment(image, scenes.CLASSES)
        matrix = confusion(result.labels, ground_truth, len(scenes.CLASSES)).numpy()  # (K, K)
        score = f"{model.method}: mIoU {scores(matrix)['mIoU']:.1f}"
        print(score)
        lower[score] = panel(result.labels)
    upper = {
        "synthetic scene": Image.fromarray(image),
        "ground truth": panel(ground_truth),
        f"confidence of {model.method}": heatmap(image, result.confidence),
    }
    maps = [ground_truth, *(result.labels for result in results.values())]
    sheet = comparison([upper, lower], scenes.CLASSES, colours, maps, TEXT)
    path = write_image(folder / "demo.png", sheet)
    print(f"scene {SCENE}, {SCENE_SIZE}x{SCENE_SIZE} pixels, in {time.perf_counter() - started:.1f} s")
    print(f"figure: {path}")


if __name__ == "__main__":
    main()
