"""The scores of one run as lines of text."""

from proxyclip.reports.changes import row_name
from proxyclip.reports.published import published_score

SCORES = ("aAcc", "mIoU", "mAcc", "mIoU_present", "fwIoU")


def format_run(run: dict, published: dict) -> str:
    """The scores of a run, several lines. published: see `proxyclip.reports.published`."""
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
