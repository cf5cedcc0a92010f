"""The report of one run: charts as PNG files, and a self-contained HTML page."""

import base64
import io
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from PIL import Image

from proxyclip.errors import InputError
from proxyclip.files import writable_folder, write_whole
from proxyclip.pictures.charts import Bar, bar_chart, narrowed, stack
from proxyclip.pictures.overlay import panels
from proxyclip.reports.frames import changes, published_score, row_name, value_text
from proxyclip.reports.run_log import to_text

MOST_IMAGES, MOST_WIDTH = 8, 1600  # the worst images, and their width on the page in pixels
MOST = 20
SCORES = ("aAcc", "mIoU", "mAcc", "mIoU_present", "fwIoU")


class Confusion(NamedTuple):
    """Pixels of the class `label` that were predicted as `prediction`.

    of_all, of_class, of_largest: percent of all scored pixels, of the label's, and of those of the largest confusion.
    """

    label: str
    prediction: str
    of_all: float
    of_class: float
    of_largest: float

    @property
    def title(self) -> str:
        """By the first names of both, for a chart."""
        return " as ".join(name.split(";")[0].split(",")[0] for name in (self.label, self.prediction))


def write_report(folder: Path, run: dict, counts, samples, *, colours, predict, resize, published: dict) -> Path:
    """Writes report.html, per_class.png, confusions.png and worst.png into `folder`; returns the page.

    run: of `log_entry`. counts: what `evaluate` returned for these samples, predict and resize; the worst images
    are segmented once more. colours: (r, g, b) of each class. published: see `proxyclip.reports.frames`. Raises
    InputError if the folder cannot be written to.
    """
    folder, classes = writable_folder(folder), list(run["per_class"])
    confusions = largest_confusions(counts.matrix, classes)
    worst = worst_images(counts, samples, classes, colours=colours, predict=predict, resize=resize)
    images = charts(run, confusions, worst)
    page = render_page(run, confusions, worst, published)
    try:
        for name, image in images.items():
            write_whole(folder / name, lambda file, image=image: image.save(file, "PNG"))
        return write_whole(folder / "report.html", lambda file: file.write(page.encode()))
    except OSError as error:
        raise InputError(f"cannot write the report to {folder} ({error.strerror or error})") from None


def worst_images(counts, samples, classes, *, colours, predict, resize) -> list[tuple[str, Image.Image]]:
    """Titles and panels of the images with the lowest mIoU, lowest first."""
    scored = {
        stem: scores for stem, scores in counts.images.items() if scores[1] is not None and not np.isnan(scores[1])
    }
    from proxyclip.evaluation.loop import LabelledImages  # here: tables of finished runs do not wait for torch
    from proxyclip.evaluation.reading import read_ahead

    stems = sorted(scored, key=lambda stem: (scored[stem][1], stem))[:MOST_IMAGES]
    index = {item.stem: place for place, item in enumerate(samples.items)}
    with read_ahead(LabelledImages(samples, resize), [index[stem] for stem in stems]) as images:
        worst = []
        for image, labels in predict(image for image in images if not image.problem):  # (H, W)
            accuracy, iou = scored[image.stem]
            title = f"{to_text(image.stem)}: mIoU {iou:.1f}, pixel accuracy {accuracy:.1f}"
            sheet = panels(image.pixels, image.label.numpy(), labels.cpu().numpy(), classes, colours)
            worst.append((title, sheet))
    return worst


def charts(run: dict, confusions: list[Confusion], worst: list[tuple[str, Image.Image]]) -> dict[str, Image.Image]:
    """File name -> chart."""
    title = title_of(run)
    classes = [
        Bar(name, figures["IoU"], "absent" if figures["IoU"] is None else f"{figures['IoU']:.1f}")
        for name, figures in best_first(run["per_class"])
    ]
    pairs = [
        Bar(c.title, c.of_largest, f"{c.of_all:.2f} % of all, {c.of_class:.1f} % of its class") for c in confusions
    ]
    heading = (f"{title}: images with the lowest mIoU", Image.new("RGB", (1, 1), "white"))
    return {
        "per_class.png": bar_chart(title, "IoU of each class, percent", classes),
        "confusions.png": bar_chart(
            title, "largest confusions: pixels of the first class that were predicted as the second", pairs
        ),
        "worst.png": stack([heading, *worst]),
    }


def render_page(run: dict, confusions: list[Confusion], worst: list[tuple[str, Image.Image]], published: dict) -> str:
    """The HTML page. All text is escaped: names of classes and images come from anywhere."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": format_score, "value": lambda value: "–" if value is None else value_text(value)}
    figures = run["per_class"]
    present = [name for name, entry in figures.items() if entry["labelled"]]
    return environment.get_template("page.html.j2").render(
        title=title_of(run),
        run=run,
        changes=changes(run),
        scores={name: run[name] for name in SCORES},
        published=published_score(run, published),
        classes=best_first(figures),
        pixels=sum(entry["labelled"] for entry in figures.values()),
        present=present,
        never_predicted=[name for name in present if not figures[name]["predicted"]],
        confusions=confusions,
        worst=[(caption, jpeg(image)) for caption, image in worst],
    )


def title_of(run: dict) -> str:
    return ", ".join(filter(None, (run["dataset"], row_name(run), run.get("clip"), run.get("vfm"))))


def best_first(figures: dict[str, dict]) -> list[tuple[str, dict]]:
    """Classes and their figures by IoU, highest first; those that occur nowhere last."""
    return sorted(figures.items(), key=lambda item: -1 if item[1]["IoU"] is None else item[1]["IoU"], reverse=True)


def jpeg(image: Image.Image) -> str:
    """An image as base64 text, for a data URL."""
    data = io.BytesIO()
    narrowed(image, MOST_WIDTH).save(data, "JPEG", quality=85)
    return base64.b64encode(data.getvalue()).decode()


def largest_confusions(matrix: np.ndarray, classes: list[str]) -> list[Confusion]:
    """The pairs of different classes with the most pixels in common, largest first; matrix (K, K)."""
    wrong = matrix - np.diag(matrix.diagonal())  # (K, K)
    labelled = matrix.sum(1)  # (K,)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    of_all, of_class = wrong / max(labelled.sum(), 1), wrong / np.maximum(labelled, 1)[:, None]  # (K, K) each
    return [
        Confusion(classes[i], classes[j], *(float(100 * x[i, j]) for x in (of_all, of_class, wrong / wrong.max())))
        for i, j in pairs
        if wrong[i, j]
    ]


def format_run(run: dict, published: dict) -> str:
    """The scores of a run, several lines. published: see `proxyclip.reports.frames`."""
    names = " ".join(filter(None, (row_name(run), run.get("clip"), run.get("vfm"))))
    lines = [f"{run['dataset']}: {names}{speed(run)}"]
    lines += [f"{outcome}: {run[outcome]}" for outcome in ("missing", "failed") if run.get(outcome)]
    if run.get("images"):
        lines.append(format_scores({name: run.get(name) for name in SCORES}))
    lines += [f"unseen as in {split}: {format_scores(scores)}" for split, scores in run.get("zero_shot", {}).items()]
    if paper := published_score(run, published):
        remark = f" ({'; '.join(paper.remarks)})" if paper.remarks else ""
        lines.append(f"published {paper.metric}: {paper.score}{remark}")
    lines += [f"left out: {stem}: {why}" for stem, why in run.get("skipped", {}).items()]
    return "\n".join(lines)


def speed(run: dict) -> str:
    images, seconds = run.get("images"), run.get("seconds")
    if images is None:
        return ""
    count = f", {images} image{'s' * (images != 1)}"
    return f"{count}, {images / seconds:.3g} images/s" if seconds else count


def format_scores(scores: dict) -> str:
    return "   ".join(f"{name} {format_score(value)}" for name, value in scores.items())


def format_score(value: float | None) -> str:
    """Two decimals; "none" for a score that does not exist, as that of a model without a labelled pixel."""
    return "none" if value is None else f"{value:.2f}"
