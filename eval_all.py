"""Evaluates models on all benchmarks that are on disk, and the embedded models on synthetic scenes.

    python eval_all.py                                               the paper's model on every benchmark on disk
    python eval_all.py --models vitb16-dino vitl14-dino --limit 100  two models, the first 100 images of each dataset
    python eval_all.py --configs cfg_voc20 cfg_ade20k --gpus 8       two benchmarks, each on eight GPUs
    python eval_all.py --resume                                      continues an interrupted run
    python eval_all.py --methods proxyclip maskclip clip             a method and its baselines
    python eval_all.py -- --set beta=1.4 --skip-bad                  options after -- are passed to eval.py
    python eval_all.py --render                                      only writes the workbook again

A missing dataset becomes a row that says how to get it, and a failed run does not stop the others. The exit code is 1
if a dataset on disk could not be evaluated. Results are in WORKDIR/results.jsonl, and as tables in
WORKDIR/results.xlsx, which is complete after every run.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import NamedTuple

from configs.arguments import add_data_options, check_numbers, new_parser
from configs.load import find_config, load_config, names
from configs.published import PUBLISHED
from datasets.segmentation import ROOT_HINT
from proxyclip.errors import NotFound, main_guard
from proxyclip.files import writable_folder
from proxyclip.methods import find_method, method_names
from proxyclip.presets import find_preset, recorded_name
from proxyclip.reports.run_log import append_run, parse_run, read_log
from proxyclip.reports.summary import format_score
from proxyclip.reports.workbook import render

HERE = Path(__file__).resolve().parent
EMBEDDED_MODEL, EMBEDDED_CONFIG = "mini", "cfg_scenes"  # they know only each other


def parse(arguments=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--models", nargs="+", help="presets (default: vitb16-dino, and mini on the synthetic scenes)")
    add("--methods", nargs="+", default=["proxyclip"], help=f"of {', '.join(method_names())} (default: proxyclip)")
    add("--configs", nargs="+", help="benchmarks (default: all)")
    add_data_options(parser)
    add("--resume", action="store_true", help="skip finished runs and continue interrupted ones")
    add("--gpus", type=int, default=1, help="processes per evaluation, one per GPU (default: 1)")
    add("--render", action="store_true", help="only write the workbook again, without evaluating")
    add("more", nargs="*", help="options for eval.py, after --")
    return parser.parse_args(arguments)


class Task(NamedTuple):
    """One evaluation: a preset, a method, and the configuration file of a benchmark."""

    model: str
    method: str
    config: Path


class Outcome(NamedTuple):
    """The outcome of a task: "done", "missing" or "failed"; the line of its run, or the reason why there is none."""

    what: str
    run: dict | None = None
    why: str = ""


@main_guard
def main(arguments=None) -> None:
    options = parse(arguments)
    check_numbers(options, gpus=1, limit=1)
    log = writable_folder(options.workdir) / "results.jsonl"
    if options.render:
        write_workbook(log)
        return
    tasks = tasks_of(options)
    outcomes = []
    for number, task in enumerate(tasks, start=1):
        print(f"[{number}/{len(tasks)}] {task.model}, {task.method} on {task.config.stem}", flush=True)
        outcomes.append((task, run(options, task)))
    write_workbook(log)
    print("\n" + table(outcomes))
    print(f"\nwritten to {log} and {log.with_suffix('.xlsx')}")
    if any(outcome.what == "failed" for _, outcome in outcomes):
        raise SystemExit(1)


def tasks_of(options) -> list[Task]:
    """All models with all methods on all benchmarks, each once; the embedded model and its scenes meet each other only,
    unless named. Unknown names are refused here."""
    models = list(dict.fromkeys(options.models or ["vitb16-dino"]))
    configs = options.configs or [name for name in names() if name != EMBEDDED_CONFIG]
    pairs = [(model, config) for model in models for config in dict.fromkeys(map(find_config, configs))]
    if not options.configs and not options.models:
        pairs.append((EMBEDDED_MODEL, find_config(EMBEDDED_CONFIG)))
    tasks = [Task(model, method, config) for model, config in pairs for method in dict.fromkeys(options.methods)]
    for task in tasks:
        find_preset(task.model), find_method(task.method), load_config(task.config)
    return tasks


def run(options, task: Task) -> Outcome:
    """Evaluates a task, or records why that is not possible."""
    data = load_config(task.config).data
    try:
        data.locate(options.data_root)
    except NotFound as error:
        note(options, task, data.name, "missing", str(error))
        return Outcome("missing", why=str(error))
    with tempfile.TemporaryDirectory() as folder:
        line = Path(folder) / "line.json"
        code, reason = watched([*command(options, task), "--json", str(line)])
        if not code:
            return Outcome("done", parse_run(line.read_bytes()))
    note(options, task, data.name, "failed", reason)
    return Outcome("failed", why=reason)


def command(options, task: Task) -> list[str]:
    """The command that evaluates one task."""
    start = [sys.executable, str(HERE / "eval.py"), "--config", str(task.config)]
    if options.gpus > 1:
        start = ["bash", str(HERE / "dist_test.sh"), str(task.config), str(options.gpus)]
    command = [*start, "--model", task.model, "--method", task.method, "--workdir", str(options.workdir)]
    command += ["--data-root", str(options.data_root)] if options.data_root else []
    command += ["--limit", str(options.limit)] if options.limit else []
    return command + ["--resume"] * options.resume + options.more


def watched(command: list[str]) -> tuple[int, str]:
    """Runs a command and forwards its output; returns its exit code, and its error if there is one."""
    sys.stdout.flush()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="backslashreplace")
    complaint = last = ""
    for line in process.stderr:
        sys.stderr.write(line)
        last = line.strip() or last
        if line.startswith("error: "):  # torchrun has a lot to say after it
            complaint = line.removeprefix("error: ").strip()
    code = process.wait()
    return code, complaint or last or f"exit code {code}"


def note(options, task: Task, dataset: str, what: str, why: str) -> None:
    """Appends a line for a task without scores to results.jsonl, under the names its run would have had; once."""
    log, preset, method = options.workdir / "results.jsonl", find_preset(task.model), find_method(task.method)
    clip, vfm = recorded_name(preset.clip), recorded_name(preset.vfm) if method.NEEDS_VFM else None
    changed = dict(setting.split("=", 1) for setting in options.more if "=" in setting)
    changed |= {"limit": options.limit} if options.limit else {}
    line = {"dataset": dataset, "model": method.Method.method, "clip": clip, "vfm": vfm, "changed": changed, what: why}
    if not any(line.items() <= earlier.items() for earlier in read_log(log)[0]):
        append_run(log, line)


def write_workbook(log: Path) -> None:
    """Writes the workbook from all lines."""
    lines, notes = read_log(log)
    for text in notes:
        print(f"note: {text}")
    render(lines, log.with_suffix(".xlsx"), PUBLISHED)


def table(outcomes: list[tuple[Task, Outcome]]) -> str:
    """One line per task; below, each reason for a missing or failed one, once, and what to do."""
    lines = [f"{'model':<16}{'method':<12}{'benchmark':<22}{'mIoU':>8}{'aAcc':>8}{'images':>8}"]
    reasons: dict[str, list[str]] = {}
    for task, (what, run, why) in outcomes:
        figures = f"{what:>8}"
        if run:
            figures = f"{format_score(run['mIoU']):>8}{format_score(run['aAcc']):>8}{run['images']:>8}"
        lines.append(f"{task.model:<16}{task.method:<12}{task.config.stem:<22}{figures}")
        if why:
            reasons.setdefault(f"{what}: {why}", []).append(task.config.stem)
    for reason, found in reasons.items():
        lines += ["", *wrapped(f"{', '.join(dict.fromkeys(found))} {reason.removesuffix(ROOT_HINT).strip()}")]
    if any(reason.endswith(ROOT_HINT) for reason in reasons):
        lines += ["", f"{ROOT_HINT}."]
    return "\n".join(lines)


def wrapped(text: str) -> list[str]:
    """Lines of at most 110 characters; commands are not broken, so that they can be pasted."""
    whole = re.sub(r"python -m \S+ \S+", lambda command: command[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(whole, 110, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


if __name__ == "__main__":
    main()
