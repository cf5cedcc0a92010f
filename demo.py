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
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

import heads
import proxyclip
from configs.arguments import add_checkpoint_options, with_model
from configs.trained_as import trained_as
from datasets import scenes
from datasets.scenes.dataset import SyntheticScenes
from proxyclip.command.parser import new_parser
from proxyclip.errors import InputError
from proxyclip.evaluation.metrics import ConfusionMatrix
from proxyclip.files import output_names, writable_folder, write_image
from proxyclip.images import read_image
from proxyclip.methods import find_method, method_names
from proxyclip.pictures.display import display_size, smooth
from proxyclip.pictures.heatmap import heatmap
from proxyclip.pictures.overlay import overlay
from proxyclip.pictures.panels import comparison
from proxyclip.refine import read_refinement
from proxyclip.runtime import main_guard
from proxyclip.vocabulary import Vocabulary, parse_classes_argument, with_background

PRESET = "vitb16-dino"  # completes a pair of which one half is named
MODELS = {"preset", "clip", "vfm", "checkpoint_clip", "checkpoint_vfm"}
MODEL_OPTIONS = (
    *("preset", "method", "clip", "vfm", "checkpoint_clip", "checkpoint_vfm", "beta", "gamma"),
    *("short_side", "crop", "stride", "logit_scale", "device", "precision", "refine"),
)
SCENE, SCENE_SIZE = 9, 512  # a test scene, on which nothing was trained or tuned; pixels
METHODS = "clip,maskclip,proxyclip"
TEXT = 20  # pixels
MOST_COMPARED = 3


def arguments() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("photo", nargs="?", help="an image file (default: a synthetic scene)")
    parser.add_argument("--classes", metavar="LIST", help='"cat; kitten, grass, sky", or FILE.txt, one class per line')
    parser.add_argument("--preset", help="pair of models (default: mini, the embedded one); --list shows all")
    parser.add_argument("--clip", metavar="NAME", help="replaces the preset's CLIP, e.g. ViT-B-16:openai")
    parser.add_argument("--vfm", metavar="NAME", help="replaces the preset's VFM, e.g. dino-vitb8")
    parser.add_argument("--checkpoint-clip", metavar="FILE", help="CLIP weights, instead of a download")
    parser.add_argument("--checkpoint-vfm", metavar="FILE", help="VFM weights, instead of a download")
    parser.add_argument("--method", help=f"{', '.join(method_names())} (default: proxyclip)")
    what = f"a figure of up to three methods side by side, e.g. naclip,proxyclip (default without an image: {METHODS})"
    parser.add_argument("--compare", metavar="METHODS", help=what)
    add_checkpoint_options(parser)
    what = "a class for everything else: threshold, or vocabulary (default: none)"
    parser.add_argument("--background", metavar="KIND", default="none", help=what)
    parser.add_argument("--threshold", type=float, help="pixels below this probability are background")
    parser.add_argument("--refine", metavar="NAME", help="pamr, masks:FOLDER or sam:CHECKPOINT")
    parser.add_argument(
        "--heatmap", metavar="CLASS", action="append", default=[], help="also write this probability map"
    )
    for name in ("short-side", "crop", "stride"):
        parser.add_argument(f"--{name}", type=int, metavar="PIXELS")
    parser.add_argument("--logit-scale", type=float, help="scale of the similarities before the softmax")
    for name in ("beta", "gamma"):
        parser.add_argument(f"--{name}", type=float, help=f"{name} of the proxy attention")
    parser.add_argument("--device", help="cpu, cuda, mps or auto (default)")
    parser.add_argument("--precision", help="fp32, bf16, fp16 or auto (default)")
    parser.add_argument("--out", default="out", metavar="DIR", help="output folder (default: out)")
    parser.add_argument("--list", action="store_true", help="list the presets and exit")
    return with_model(parser.parse_args(), preset=None, method=None, vfm=None, checkpoint_vfm=None)


@main_guard
def main() -> None:
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # a sentence, as errors are
    options = arguments()
    if options.list:
        proxyclip.presets()
        return
    chosen = {name: value for name, value in vars(options).items() if name in MODEL_OPTIONS and value is not None}
    methods = [name.strip() for name in (options.compare or "").split(",") if name.strip()]
    check_compared(options, methods)
    if options.photo is None:
        own = options.classes or options.heatmap or options.checkpoint or options.background != "none"
        if own or options.threshold is not None or chosen.keys() - {"device", "precision"}:
            raise InputError(
                "these options need an image: without one, the demo runs the embedded models on a synthetic scene"
            )
        show_scene(writable_folder(options.out), methods or METHODS.split(","), chosen)
        return
    if options.checkpoint:
        planned = heads.plan(options.checkpoint, **trained_as(options.train_config), **chosen)
    elif not chosen.keys() & MODELS:
        chosen["preset"] = "mini"
    elif not {"clip", "vfm"} <= chosen.keys():
        chosen.setdefault("preset", PRESET)
    if options.classes is None:
        raise InputError('--classes is missing: say what to look for, e.g. --classes "cat, grass, sky"')

    # Validate input before loading models, so a typo does not cost a download.
    vocabulary = Vocabulary.parse(parse_classes_argument(options.classes))
    if not 0 <= (options.threshold or 0) <= 1:
        raise InputError(f"--threshold is {options.threshold}; it must be a probability between 0 and 1")
    vocabulary, threshold = with_background(vocabulary, options.background, options.threshold)
    read_refinement(options.refine)
    heatmaps = [vocabulary.names[vocabulary.index(name)] for name in options.heatmap]
    photo = Path(options.photo)
    image = read_image(photo)  # (H, W, 3)
    output_names(photo.stem, heatmaps)
    folder = writable_folder(options.out)

    if chosen.get("preset") == "mini":
        print(
            f"the embedded models know synthetic scenes only; for photographs use --preset {PRESET} (0.9 GB download)"
        )
    started = time.perf_counter()
    model = planned.build() if options.checkpoint else proxyclip.load(**chosen)
    loaded = time.perf_counter()
    result = model.segment(image, vocabulary, threshold=threshold, probabilities=heatmaps, names=photo.stem)
    finished = time.perf_counter()
    written = result.save(folder, photo.stem)
    if methods:
        compare(folder, methods, chosen, image, photo.stem, classes=vocabulary, threshold=threshold)

    height, width = result.labels.shape
    print(f"{photo.name}: {width}x{height} pixels, {len(result.classes)} classes")
    for name, area in sorted(result.areas().items(), key=lambda item: -item[1])[:10]:
        print(f"  {100 * area:5.1f} %  {name}")
    print(f"loaded in {loaded - started:.1f} s, segmented in {finished - loaded:.1f} s")
    for key, path in written.items():
        print(f"{key}: {path}")


def compare(folder: Path, methods: list[str], chosen: dict, image: np.ndarray, stem: str, **options) -> None:
    """The image and each method's prediction, as one figure."""
    results = {}
    for method in methods:
        model = proxyclip.load(method=method, **chosen)
        results[model.method] = model.segment(image, names=stem, **options)
    found = list(results.values())
    plain = Image.fromarray(smooth(image, display_size(*image.shape[:2])))
    row = {"image": plain} | {title: one.overlay(legend=False) for title, one in results.items()}
    sheet = comparison([row], found[0].classes, found[0].colours(), [one.labels for one in found], found[0].text_size())
    print(f"comparison: {write_image(folder / f'{stem}_compare.png', sheet)}")


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


def show_scene(folder: Path, methods: list[str], chosen: dict) -> None:
    """One synthetic scene with its ground truth and each method's prediction, as one figure."""
    started = time.perf_counter()
    image, ground_truth = scenes.draw(SCENE, SCENE_SIZE)  # (H, W, 3), (H, W)
    colours = np.array(SyntheticScenes().colours, np.uint8)  # (K, 3)
    panel = partial(overlay, image, colours=colours, alpha=0.7)
    results, lower = {}, {}
    for method in methods:
        model = proxyclip.load("mini", method=method, **chosen)
        results[model.method] = result = model.segment(image, scenes.CLASSES)
        matrix = ConfusionMatrix(len(scenes.CLASSES))
        matrix.add(result.labels, ground_truth)
        score = f"{model.method}: mIoU {matrix.scores()['mIoU']:.1f}"
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
