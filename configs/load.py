"""Loading configuration files."""

import re
import reprlib
import runpy
import traceback
from dataclasses import fields
from pathlib import Path

from configs.base import EvalConfig
from proxyclip.errors import InputError, NotFound, nearest

HERE = Path(__file__).resolve().parent


def names() -> list[str]:
    """The benchmarks in this folder: cfg_ade20k, cfg_ade847, ..."""
    return sorted(path.stem for path in HERE.glob("cfg_*.py"))


def find_config(name: str | Path, folder: Path = HERE) -> Path:
    """The file of a configuration: a path, or the name of a file in `folder`, with or without "cfg_" and ".py".

    Raises NotFound for an unknown name, with the nearest one.
    """
    path = Path(name)
    if path.parent == Path() and not path.is_file():
        places = (folder / f"{path.stem}.py", folder / f"cfg_{path.stem}.py")
        path = next((place for place in places if place.is_file()), path)
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.py") if "\nconfig = " in file.read_text())
        raise NotFound(f"unknown configuration {path.stem!r}; {nearest(path.stem, known)}; or give a path")
    return path


def load_config(name: str | Path, kind: type = EvalConfig, folder: Path = HERE):
    """The value `config` of a configuration file, of that kind; see `find_config`.

    Where a benchmark is wanted, the configuration of a training run stands for the benchmark that it names. Raises
    NotFound for an unknown name, and InputError for a file that does not set `config`, or sets a field that does not
    exist.
    """
    path = find_config(name, folder)
    try:
        found = runpy.run_path(str(path))
    except TypeError as error:
        raise InputError(f"{path}: {_misspelt(error)}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except ModuleNotFoundError as error:
        raise InputError(f"{path}: {error}; install the requirements: pip install -r requirements.txt") from None
    except Exception as error:  # a user's file may raise anything
        raise InputError(f"{path}: {type(error).__name__}: {error}") from None
    if "config" not in found:
        raise InputError(f"{path} does not set `config`")
    value = found["config"]
    if kind is EvalConfig and isinstance(getattr(value, "benchmark", None), EvalConfig):
        value = value.benchmark
    if not isinstance(value, kind):
        what = f"the class {value.__name__}" if isinstance(value, type) else reprlib.repr(value)
        raise InputError(f"{path}: `config` must be {kind.__name__}(...), not {what}")
    return value


def _misspelt(error: TypeError) -> str:
    """Python's message about an unexpected argument, with the nearest known one."""
    match = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    made = next((frame.f_globals[match[1]] for frame in frames if match and match[1] in frame.f_globals), None)
    if made is None:
        return str(error)
    return f"{match[1]} has no field {match[2]!r}; {nearest(match[2], [entry.name for entry in fields(made)])}"
