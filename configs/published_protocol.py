"""The protocols of published runs: how a method's own evaluation differs from the standard protocol of a benchmark.

One file a method in configs/protocols/, named after it, that sets `protocol`.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from configs.base import EvalConfig
from configs.load import load_config
from configs.outcomes import Task
from proxyclip.errors import InputError

HERE = Path(__file__).resolve().parent / "protocols"
OF_CONFIG = {entry.name for entry in fields(EvalConfig)}


@dataclass(frozen=True)
class PublishedProtocol:
    """source: where the values were found. everywhere: field -> value on all benchmarks. benchmarks: dataset -> field
    -> value, for those that were published, in addition.

    A field is one of `EvalConfig`, an option of the method, or "refine". Prompts are added to those of the benchmark.
    """

    source: str
    benchmarks: Mapping[str, Mapping]
    everywhere: Mapping = field(default_factory=dict)


def published_methods() -> list[str]:
    """The methods with a published protocol."""
    return sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))


def published_protocol(config: EvalConfig, method: str) -> tuple[EvalConfig, dict]:
    """The configuration of a benchmark as in the method's published run, and the arguments of the model besides.

    Raises InputError for a method without a published protocol, and for a benchmark that is not part of it.
    """
    if method not in published_methods():
        raise InputError(f"{method} has no published protocol here; those with one: {', '.join(published_methods())}")
    found = importlib.import_module(f"configs.protocols.{method}").protocol
    if config.data.name not in found.benchmarks:
        known = ", ".join(found.benchmarks)
        raise InputError(
            f"the published protocol of {method} says nothing about {config.data.name}, only about {known}"
        )
    given = {**found.everywhere, **found.benchmarks[config.data.name]}
    prompts = dict(config.prompts)
    if given.get("background") == "threshold":  # one word in place of the list
        prompts.pop("background", None)
    prompts |= given.pop("prompts", {})
    changed = {name: value for name, value in given.items() if name in OF_CONFIG}
    model = {name: value for name, value in given.items() if name not in OF_CONFIG}
    return replace(config, **changed, prompts=prompts), model


def covered(tasks: list[Task], all_of_them: bool) -> list[Task]:
    """The tasks whose benchmarks were published for their methods; InputError if there are none, or not `all_of_them`.

    Checkpoints stay out of it: they have the sizes of their training.
    """
    found = []
    for task in tasks:
        try:
            if not task.stored:
                published_protocol(load_config(task.config), task.method)
            found.append(task)
        except InputError:
            if all_of_them or (task is tasks[-1] and not found):
                raise
    return found
