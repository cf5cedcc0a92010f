"""Finds the threshold below which pixels are background, on a few labelled images.

    python calibrate.py --images DIR --labels DIR --classes words.txt                        the embedded models
    python calibrate.py --images DIR --labels DIR --classes words.txt --preset vitb16-dino --background vocabulary
    python calibrate.py --config cfg_voc21.py --limit 100 --preset vitb16-dino               a benchmark with background
    python calibrate.py --config cfg_scenes.py --split tune --limit 50 --classes "car, boat, house, bird"
    python calibrate.py --images DIR --labels DIR --classes words.txt --scales 20,40,80      the logit scale as well

Label maps are PNG files named as the images, with 0 for the background, 1 for the first class in the list, 2 for the
second, and 255 for pixels that are not scored. With --config and --classes, all other classes of the benchmark are
background. Prints a table and the command to use, and draws the curve.
"""

import argparse
import shlex
from dataclasses import replace
from pathlib import Path

import heads
from configs.calibration import Labelled, labelled_benchmark, labelled_folder
from configs.load import trained_as
from proxyclip.command.model_options import PAIRS, add_model_options, chosen_model, new_parser
from proxyclip.errors import InputError
from proxyclip.files import writable_file, write_image
from proxyclip.runtime import main_guard, progress_bar
from proxyclip.vocabulary import parse_classes_argument, with_background


def parse(arguments=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--images", type=Path, metavar="DIR", help="folder of images")
    add("--labels", type=Path, metavar="DIR", help="folder of label maps, one PNG for each image")
    add("--classes", metavar="LIST", help='"cat; kitten, grass, sky", or FILE.txt, one class per line')
    add("--config", metavar="NAME", help="a benchmark in configs/ in place of folders")
    add("--split", help="of the benchmark (default: that of its configuration)")
    add("--data-root", type=Path, help="folder that contains the datasets (default: $PROXYCLIP_DATA or data/)")
    add("--limit", type=int, metavar="N", help="only the first N images")
    add("--background", default="threshold", metavar="KIND", help="threshold (default) or vocabulary")
    add("--scales", metavar="LIST", help="logit scales to try, as in 20,40,80 (default: the model's own)")
    add("--out", type=Path, default=Path("calibration.png"), metavar="FILE", help="the curve (default: %(default)s)")
    add_model_options(parser, heads=True)
    return parser.parse_args(arguments)


@main_guard
def main(arguments=None) -> None:
    options = parse(arguments)
    scales = read_scales(options.scales)
    labelled = labelled_images(options)
    choice = chosen_model(options, trained)
    sizes = labelled.model_options if choice.checkpoint is None else {}
    planned = replace(choice, options=sizes | choice.options).plan()
    writable_file(options.out)

    from proxyclip.evaluation.calibration import curves  # here: errors found above do not wait for torch
    from proxyclip.pictures.charts import curve_chart

    model = planned.build()
    samples = progress_bar(labelled.samples(options.limit), labelled.count(options.limit), "calibration", "image")
    found = curves(model, samples, labelled.vocabulary, scales)
    best = max(found, key=lambda curve: curve.miou.max())
    print(table(best))
    lines = {f"logit scale {c.scale:g}" if scales else "mIoU": (c.thresholds, c.miou, c.best) for c in found}
    count = labelled.count(options.limit)
    title = f"{model.method}: mIoU in percent against the threshold, {count} image{'s' if count > 1 else ''}"
    print(f"curve: {write_image(options.out, curve_chart(title, lines, 'threshold', 'mIoU, %'))}")
    print(f"best: threshold {best.thresholds[best.best]:.2f}, mIoU {best.miou[best.best]:.1f}; to use it:")
    print(command(options, labelled, best, bool(scales)))
    if best.best == len(best.thresholds) - 1:
        print("note: that is the highest threshold: try lower logit scales as well, as in --scales 5,10,20")
    elif best.best == 0:
        print("note: no threshold is better: leave --threshold and --background out")


def trained(checkpoint, train_config, **options):
    return heads.plan(checkpoint, **trained_as(train_config), **options)


def labelled_images(options) -> Labelled:
    """The images that the options name; InputError for options that contradict each other."""
    if options.limit is not None and options.limit < 1:
        raise InputError(f"--limit must be at least 1, not {options.limit}")
    if options.background == "none":
        raise InputError("without a background there is no threshold: choose --background threshold or vocabulary")
    classes = None
    if options.classes is not None:
        classes, _ = with_background(parse_classes_argument(options.classes), options.background)
    if options.config is not None:
        if options.images or options.labels:
            raise InputError("--config names a benchmark: leave out --images and --labels")
        return labelled_benchmark(options.config, options.split, options.data_root, classes)
    if not (options.images and options.labels and classes):
        raise InputError("name --images, --labels and --classes, or a benchmark with --config")
    return labelled_folder(options.images, options.labels, classes, options.classes)


def read_scales(text: str | None) -> tuple[float, ...]:
    try:
        scales = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise InputError(f"--scales must be numbers, as in 20,40,80, not {text!r}") from None
    if not all(0 < scale <= 1e6 for scale in scales):
        raise InputError(f"--scales must be positive, not {text}")
    return scales


def table(curve) -> str:
    """Every twentieth of the thresholds, and the best one."""
    lines = [f"{'threshold':>9} {'mIoU':>6} {'background':>10} {'pixels':>7}"]
    for index, threshold in enumerate(curve.thresholds):
        if index % 5 == 0 or index == curve.best:
            values = f"{threshold:9.2f} {curve.miou[index]:6.1f} {curve.background[index]:10.1f}"
            lines.append(f"{values} {curve.accuracy[index]:7.1f}{'  best' if index == curve.best else ''}")
    return "\n".join(lines)


def command(options, labelled: Labelled, best, with_scale: bool) -> str:
    """The command line that segments images with this threshold."""
    parts = ["python", "segment.py", str(options.images or "IMAGES"), "--classes", labelled.classes]
    for name in (*PAIRS, "method", "checkpoint", "train_config", "refine", "backend"):
        if (value := getattr(options, name)) is not None:
            parts += [f"--{name.replace('_', '-')}", str(value)]
    settings = [*options.settings, *([f"logit_scale={best.scale:g}"] if with_scale else [])]
    parts += ["--set", *settings] if settings else []
    threshold = f"{best.thresholds[best.best]:.2f}"
    return shlex.join([*parts, "--background", labelled.background, "--threshold", threshold, "--out", "out"])


if __name__ == "__main__":
    main()
