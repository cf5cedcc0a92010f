"""Finding and loading configurations, by name or path."""

import importlib
import re
import reprlib
import runpy
import traceback
from dataclasses import fields
from pathlib import Path

from configs.base import EvalConfig
from proxyclip.errors import InputError, NotFound, nearest

HERE = Path(__file__).resolve().parent
HEADS = HERE / "heads"


def names() -> list[str]:
    """The benchmarks in this folder: cfg_ade20k, cfg_ade847, ..."""
    return sorted(path.stem for path in HERE.glob("cfg_*.py"))


def training_runs(name: str = "") -> dict:
    """Name -> `TrainConfig` of the runs in configs/heads/. name: of a run, to read the file of its head alone."""
    heads = sorted(path.stem for path in HEADS.glob("[a-z]*.py"))
    tables = [
        importlib.import_module(f"configs.heads.{head}").runs for head in heads if name.startswith(head) or not name
    ]
    return {run: config for table in tables for run, config in table.items()}


def find_config(name: str | Path, kind: type = EvalConfig) -> Path:
    """The file of a configuration: a path, the name of a benchmark with or without "cfg_" and ".py", or the name of a
    training run, which stands for a file of that name in configs/heads/.

    Raises NotFound for an unknown name, with the nearest ones of that kind.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.parent == Path() and (benchmark := HERE / f"cfg_{path.stem.removeprefix('cfg_')}.py").is_file():
        return benchmark
    if (path.parent == Path() or path.absolute().parent == HEADS) and path.stem in training_runs(path.stem):
        return HEADS / f"{path.stem}.py"
    known = names() if kind is EvalConfig else sorted(training_runs())
    raise NotFound(f"unknown configuration {path.stem!r}; {nearest(path.stem, known)}; or give a path")


def load_config(name: str | Path, kind: type = EvalConfig):
    """The configuration of that kind, `EvalConfig` or `TrainConfig`: see `find_config`.

    Where a benchmark is wanted, the configuration of a training run stands for the benchmark that it names. Raises
    NotFound for an unknown name, and InputError for a file that does not set `config`, or sets a field that does not
    exist.
    """
    path = find_config(name, kind)
    value = read_config(path) if path.is_file() else training_runs(path.stem)[path.stem]
    if kind is EvalConfig and isinstance(getattr(value, "benchmark", None), EvalConfig):
        value = value.benchmark
    if not isinstance(value, kind):
        what = f"the class {value.__name__}" if isinstance(value, type) else reprlib.repr(value)
        raise InputError(f"{path}: `config` must be {kind.__name__}(...), not {what}")
    return value


def read_config(path: Path):
    """The value `config` that a file sets; InputError for a file that does not, or that raises an error."""
    try:
        values = runpy.run_path(str(path))
    except TypeError as error:
        raise InputError(f"{path}: {_misspelt(error)}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except ModuleNotFoundError as error:
        raise InputError(f"{path}: {error}; install the requirements: pip install -r requirements.txt") from None
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        raise InputError(f"{path}: {type(error).__name__}: {error}") from None
    if "config" in values:
        return values["config"]
    of_head = f", but holds runs to choose from by name: {', '.join(values['runs'])}" if "runs" in values else ""
    raise InputError(f"{path} does not set `config`{of_head}")


def _misspelt(error: TypeError) -> str:
    """Python's message about an unexpected argument, with the nearest known one."""
    match = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    made = next((frame.f_globals[match[1]] for frame in frames if match and match[1] in frame.f_globals), None)
    if made is None:
        return str(error)
    return f"{match[1]} has no field {match[2]!r}; {nearest(match[2], [entry.name for entry in fields(made)])}"


def trained_as(name: str | None) -> dict:
    """What a training run says about a checkpoint, all that a published one does not hold itself: arguments of
    `heads.open_checkpoint`; {} for None."""
    if name is None:
        return {}
    from configs.training import TrainConfig  # here: most runs need none

    config = load_config(name, TrainConfig)
    return {
        "head": config.head,
        "classes": config.data.classes,
        "seen": config.seen,
        "assumed": config.options,
        "training": {"dataset": config.data.name, "setting": config.setting, "unseen": config.unseen},
    }
