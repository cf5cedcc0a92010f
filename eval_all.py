"""Evaluates models on all benchmarks that are on disk, and the embedded models on synthetic scenes.

    python eval_all.py                                               the paper's model on every benchmark on disk
    python eval_all.py --presets vitb16-dino vitl14-dino --limit 100 two models, the first 100 images of each dataset
    python eval_all.py --configs cfg_voc20 cfg_ade20k --gpus 8       two benchmarks, each on eight GPUs
    python eval_all.py --resume                                      continues an interrupted run
    python eval_all.py --methods proxyclip naclip maskclip           several methods under one protocol
    python eval_all.py --methods naclip sclip --protocol published   each under that of its published runs
    python eval_all.py --checkpoints runs/zeg_voc runs/otseg_voc     trained heads
    python eval_all.py -- --set beta=1.4 --skip-bad                  options after -- are passed to eval.py
    python eval_all.py --render                                      only writes the workbook again

A missing dataset becomes a row that says how to get it, and a failed run does not stop the others. The exit code is 1
if a dataset on disk could not be evaluated. Results are in WORKDIR/results.jsonl, and as tables in
WORKDIR/results.xlsx, which is complete after every run.
"""

import argparse
import subprocess
import sys
import tempfile
from itertools import chain
from pathlib import Path

from configs.benchmark_run import Outcome, Task, table
from configs.load import find_config, load_config, names, trained_as
from configs.overrides import add_data_options, check_numbers
from configs.published import PUBLISHED
from configs.published_protocols import published_protocol
from proxyclip.command.model_options import new_parser
from proxyclip.errors import InputError, NotFound
from proxyclip.files import writable_folder
from proxyclip.loading import find_preset, recorded_name
from proxyclip.methods import find_method, method_names
from proxyclip.reports.run_log import append_run, parse_run, read_log
from proxyclip.reports.workbook import render
from proxyclip.runtime import main_guard

HERE = Path(__file__).resolve().parent
EMBEDDED_MODEL, EMBEDDED_CONFIG = "mini", "cfg_scenes"  # they know only each other
OF_HEADS = ("cfg_voc20b",)  # protocols of trained heads; presets are evaluated on them only if they are named


def parse(arguments=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    what = "(default: vitb16-dino, and mini on the synthetic scenes)"
    add("--presets", "--models", nargs="+", dest="models", help=f"pairs of models {what}")
    add("--methods", nargs="+", help=f"of presets: {', '.join(method_names())} (default: proxyclip)")
    what = "ours: one for all methods (default); published: that of published runs, where there is one"
    add("--protocol", choices=("ours", "published"), default="ours", help=what)
    what = "trained heads: see --checkpoint of eval.py; alone, they replace the presets"
    add("--checkpoints", "--checkpoint", nargs="+", help=what)
    add("--train-config", metavar="NAME", help="of the published checkpoints among them: see eval.py")
    add("--configs", nargs="+", help="benchmarks (default: all; cfg_voc20b for trained heads only)")
    add("--checkpoint-clip", metavar="FILE", help="CLIP weights, for all but mini, instead of a download")
    add("--checkpoint-vfm", metavar="FILE", help="VFM weights, for all but mini, instead of a download")
    add("--set", nargs="+", default=[], action="extend", metavar="FIELD=VALUE", dest="settings", help="see eval.py")
    add_data_options(parser)
    add("--resume", action="store_true", help="skip finished runs and continue interrupted ones")
    add("--gpus", type=int, default=1, help="processes per evaluation, one per GPU (default: 1)")
    add("--render", action="store_true", help="only write the workbook again, without evaluating")
    add("more", nargs="*", help="options for eval.py, after --")
    return parser.parse_args(arguments)


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
    """All models with all methods, and all checkpoints, on all benchmarks, each once; the embedded models and their
    scenes meet each other only, unless named. Unknown names are refused here."""
    if options.checkpoints is None and options.train_config is not None:
        raise InputError("--train-config describes --checkpoints: name some")
    if options.checkpoints and options.methods and not options.models:
        raise InputError("--methods is for --presets, which --checkpoints replace: name both, or no methods")
    configs = options.configs or [name for name in names() if name != EMBEDDED_CONFIG]
    benchmarks, scenes = list(dict.fromkeys(map(find_config, configs))), find_config(EMBEDDED_CONFIG)
    tasks = []
    if options.models or not options.checkpoints:
        standard = [config for config in benchmarks if options.configs or config.stem not in OF_HEADS]
        pairs = [(model, config) for model in dict.fromkeys(options.models or ["vitb16-dino"]) for config in standard]
        if not options.configs and not options.models:
            pairs.append((EMBEDDED_MODEL, scenes))
        methods = dict.fromkeys(options.methods or ["proxyclip"])
        tasks += [Task(model, method, config) for model, config in pairs for method in methods]
    for task in tasks:
        find_preset(task.model), find_method(task.method)
    for path in dict.fromkeys(options.checkpoints or []):
        import heads  # here: it waits for torch

        stored = heads.open_checkpoint(path, **trained_as(options.train_config))
        embedded = not options.configs and stored.metadata.clip == recorded_name(find_preset(EMBEDDED_MODEL).clip)
        tasks += [Task(path, stored.metadata.head, config, stored) for config in ([scenes] if embedded else benchmarks)]
    for task in tasks:
        load_config(task.config)
    return published_tasks(tasks, options.configs is not None) if options.protocol == "published" else tasks


def published_tasks(tasks: list[Task], all_of_them: bool) -> list[Task]:
    """The tasks whose benchmarks were published for their methods; InputError if none was, or not `all_of_them`."""
    published = []
    for task in tasks:
        try:
            published_protocol(load_config(task.config), task.method, trained_on(task))
            published.append(task)
        except InputError:
            if all_of_them or (task is tasks[-1] and not published):
                raise
    return published


def trained_on(task: Task) -> str | None:
    """The dataset of a head's training; None for another model, or where it is not known."""
    return task.stored and task.stored.metadata.training.get("dataset")


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
    named = {"preset": task.model, "method": task.method}
    if task.stored:
        named = {"checkpoint": task.model, "train_config": options.train_config}
    if task.model != EMBEDDED_MODEL:
        named |= {"checkpoint_clip": options.checkpoint_clip}
        named |= {} if task.stored else {"checkpoint_vfm": options.checkpoint_vfm}
    named |= {name: getattr(options, name) for name in ("protocol", "workdir", "data_root", "limit")}
    given = [(f"--{name.replace('_', '-')}", str(value)) for name, value in named.items() if value is not None]
    settings = ["--set", *options.settings] if options.settings else []
    return [*start, *chain(*given), *settings, *["--resume"] * options.resume, *options.more]


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
    log = options.workdir / "results.jsonl"
    changed = dict(setting.split("=", 1) for setting in [*options.settings, *options.more] if "=" in setting)
    changed |= {"limit": options.limit} if options.limit else {}
    line = {"dataset": dataset, **names_of(task), "changed": changed, what: why}
    if options.protocol != "ours" and trained_on(task) != dataset:
        line["protocol"] = {"name": options.protocol}
    if not any(line.items() <= earlier.items() for earlier in read_log(log)[0]):
        append_run(log, line)


def names_of(task: Task) -> dict:
    """The names that the run of a task has in tables."""
    if task.stored:
        from heads import find_head

        model, facts = find_head(task.method).Head.method, task.stored.metadata
        return {"model": model, "clip": facts.clip, "vfm": None, "trained": task.stored.trained}
    preset, method = find_preset(task.model), find_method(task.method)
    vfm = recorded_name(preset.vfm) if method.NEEDS_VFM else None
    return {"model": method.Method.method, "clip": recorded_name(preset.clip), "vfm": vfm}


def write_workbook(log: Path) -> None:
    """Writes the workbook from all lines."""
    lines, notes = read_log(log)
    for text in notes:
        print(f"note: {text}")
    render(lines, log.with_suffix(".xlsx"), PUBLISHED)


if __name__ == "__main__":
    main()
