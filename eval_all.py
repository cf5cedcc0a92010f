"""Evaluates models on all benchmarks that are on this disk, and the embedded one.

    python eval_all.py                                               the paper's model on everything that is here
    python eval_all.py --models vitb16-dino vitl14-dino --limit 100  two models, the first 100 images of each dataset
    python eval_all.py --configs cfg_voc20 cfg_ade20k --gpus 8       two benchmarks, each on eight GPUs
    python eval_all.py --resume                                      goes on where it was stopped
    python eval_all.py -- --set attention=value --skip-bad           what follows -- is handed to eval.py
    python eval_all.py --render                                      only writes the workbook again

A dataset that is not on the disk becomes a row that says what to do; a run that fails does not keep the others from
running. The exit code is 1 if a dataset that is here could not be evaluated. Results are in WORKDIR/results.jsonl, and
as tables in WORKDIR/results.xlsx, which is complete after every run.
"""

import argparse
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

from configs import load as configs
from configs.published import PUBLISHED
from datasets.segmentation import ROOT_HINT
from proxyclip.errors import InputError, NotFound, main_guard
from proxyclip.files import writable_folder
from proxyclip.presets import find_preset, recorded_name
from proxyclip.reports import run_log as results
from proxyclip.reports import workbook

HERE = Path(__file__).resolve().parent
EMBEDDED_MODEL, EMBEDDED_CONFIG = "mini", "cfg_scenes"  # they know only each other


def parse(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="presets (default: vitb16-dino, and mini on its scenes)")
    parser.add_argument("--configs", nargs="+", help="benchmarks (default: all)")
    parser.add_argument("--data-root", type=Path, help="folder of all datasets (default: $PROXYCLIP_DATA, else data/)")
    parser.add_argument("--workdir", type=Path, default=Path("work/eval"), help="for results (default: work/eval)")
    parser.add_argument("--limit", type=int, help="only the first N images of each dataset")
    parser.add_argument("--resume", action="store_true", help="leave out what is done, go on with what was stopped")
    parser.add_argument("--gpus", type=int, default=1, help="processes that share each dataset (default: 1)")
    parser.add_argument("--render", action="store_true", help="evaluate nothing, only write the workbook again")
    parser.add_argument("more", nargs="*", help="after --: options for eval.py")
    return parser.parse_args(arguments)


@main_guard
def main(arguments=None) -> None:
    options = parse(arguments)
    if options.gpus < 1 or (options.limit is not None and options.limit < 1):
        raise InputError("--gpus and --limit must be at least 1")
    truth = writable_folder(options.workdir) / "results.jsonl"
    if options.render:
        render(truth)
        return
    chosen = pairs(options)
    for model, config in chosen:
        find_preset(model)
        configs.load_config(config)
    outcomes = [(model, config, outcome(options, model, config, truth)) for model, config in chosen]
    render(truth)
    print("\n" + table(outcomes))
    print(f"\nwritten to {truth} and {truth.with_suffix('.xlsx')}")
    if any(one.what == "failed" for _, _, one in outcomes):
        raise SystemExit(1)


class Outcome(NamedTuple):
    """What became of a pair: "done", "done before", "missing" or "failed"; its run, or why there is none."""

    what: str
    run: dict | None = None
    why: str = ""


def table(outcomes: list[tuple[str, str, Outcome]]) -> str:
    """A line for each pair, and below them what is missing or failed, each reason once, and what mends it."""
    lines = [f"{'model':<16}{'benchmark':<22}{'mIoU':>8}{'aAcc':>8}{'images':>8}"]
    reasons: dict[str, list[str]] = {}
    for model, config, (what, run, why) in outcomes:
        figures = f"{what:>8}"
        if run:
            figures = f"{results.number(run['mIoU']):>8}{results.number(run['aAcc']):>8}{run['images']:>8}"
        lines.append(f"{model:<16}{Path(config).stem:<22}{figures}")
        if why:
            reasons.setdefault(f"{what}: {why}", []).append(Path(config).stem)
    for reason, names in reasons.items():
        lines += ["", *wrapped(f"{', '.join(dict.fromkeys(names))} {reason.removesuffix(ROOT_HINT).strip()}")]
    if any(reason.endswith(ROOT_HINT) for reason in reasons):
        lines += ["", f"{ROOT_HINT}."]
    return "\n".join(lines)


def wrapped(text: str) -> list[str]:
    """Lines of at most 110 characters; a command stays in one piece, so that it can be pasted."""
    whole = re.sub(r"python -m \S+ \S+", lambda command: command[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(whole, 110, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def pairs(options) -> list[tuple[str, str]]:
    """Which model meets which benchmark: all with all, but the embedded ones each other only, unless named."""
    models = options.models or ["vitb16-dino"]
    named = options.configs or [name for name in configs.names() if name != EMBEDDED_CONFIG]
    chosen = [(model, config) for model in models for config in named]
    if options.configs or options.models or EMBEDDED_CONFIG not in configs.names():
        return chosen
    return [*chosen, (EMBEDDED_MODEL, EMBEDDED_CONFIG)]


def outcome(options, model: str, config: str, truth: Path) -> Outcome:
    """Evaluates a pair, or notes why it cannot be done."""
    value = configs.load_config(config)
    try:
        value.data.locate(options.data_root)
    except NotFound as error:
        note(options, model, value, "missing", str(error))
        return Outcome("missing", why=str(error))
    before = len(results.read(truth)[0])
    code, reason = watched(command(options, model, config))
    if code:
        note(options, model, value, "failed", reason)
        return Outcome("failed", why=reason)
    new = results.read(truth)[0][before:]
    return Outcome("done", new[-1]) if new else Outcome("done before")


def watched(command: list[str]) -> tuple[int, str]:
    """Runs a command and shows what it says; its exit code, and its complaint if it has one."""
    sys.stdout.flush()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    complaint = last = ""
    for line in process.stderr:
        sys.stderr.write(line)
        last = line.strip() or last
        if line.startswith("error: "):  # torchrun has a lot to say after it
            complaint = line.removeprefix("error: ").strip()
    code = process.wait()
    return code, complaint or last or f"exit code {code}"


def command(options, model: str, config: str) -> list[str]:
    """What evaluates one pair."""
    start = [sys.executable, str(HERE / "eval.py"), "--config", config]
    if options.gpus > 1:
        start = ["bash", str(HERE / "dist_test.sh"), config, str(options.gpus)]
    command = [*start, "--model", model, "--workdir", str(options.workdir)]
    command += ["--data-root", str(options.data_root)] if options.data_root else []
    command += ["--limit", str(options.limit)] if options.limit else []
    return command + ["--resume"] * options.resume + options.more


def note(options, model: str, config, what: str, why: str) -> None:
    """A line in results.jsonl for a pair without scores, under the names that its run would have had."""
    preset = find_preset(model)
    given = dict(setting.split("=", 1) for setting in options.more if "=" in setting)
    attention = given.get("attention", "proxy")
    names = {"dataset": config.data.name, "model": results.METHODS.get(attention, attention)}
    names["clip"] = given.get("clip") or recorded_name(preset.clip)
    names["vfm"] = given.get("vfm") or recorded_name(preset.vfm) if attention == "proxy" else None
    results.append(options.workdir / "results.jsonl", names | {what: why})


def render(truth: Path) -> None:
    """The workbook of all lines."""
    runs, complaints = results.read(truth)
    for complaint in complaints:
        print(f"note: {complaint}")
    workbook.render(runs, truth.with_suffix(".xlsx"), PUBLISHED)


if __name__ == "__main__":
    main()
