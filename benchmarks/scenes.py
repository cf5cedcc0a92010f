"""What the embedded pair reaches on the drawn scenes: CLIP as it is, its values alone, ProxyCLIP.

    python benchmarks/scenes.py                     the 500 test scenes, under a minute
    python benchmarks/scenes.py --split tune        the 200 scenes that settings are chosen on

Class names as they are, all 24 classes against each other, scenes of 128 x 128 pixels. Prints a table.
"""

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import proxyclip  # noqa: E402
from datasets import scenes  # noqa: E402
from proxyclip.errors import main_guard  # noqa: E402
from proxyclip.metric import ConfusionMatrix  # noqa: E402

KINDS = {"stuff": scenes.STUFF, "things": scenes.THINGS}
METHODS = {"vanilla": "CLIP as it is", "value": "its values alone (MaskCLIP)", "proxy": "ProxyCLIP"}


def scores(attention: str, drawn: list) -> dict:
    """mIoU over all classes, over stuff and over things, and pixel accuracy, in percent."""
    model, matrix = proxyclip.load("mini", attention=attention), ConfusionMatrix(len(scenes.CLASSES))
    images = (image for image, _ in drawn)
    for result, (_, label) in zip(model.segment_each(images, scenes.CLASSES, batch_windows=9), drawn, strict=True):
        matrix.add(result.labels, label)
    found = matrix.scores()
    iou = dict(zip(scenes.CLASSES, found["per_class"]["IoU"], strict=True))
    means = {kind: statistics.mean(iou[name] for name in names) for kind, names in KINDS.items()}
    return {"mIoU": found["mIoU"], **means, "pixel accuracy": found["aAcc"]}


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("test", "tune"), default="test")
    drawn = [scenes.draw(seed) for seed in scenes.SPLITS[parser.parse_args().split]]
    for row, (attention, title) in enumerate(METHODS.items()):
        found = scores(attention, drawn)
        if row == 0:
            print("| dense features, sliding windows | " + " | ".join(found) + " |")
            print("| --- |" + " --- |" * len(found))
        print(f"| {title} | " + " | ".join(f"{value:.1f}" for value in found.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
