"""Records of evaluations: results.jsonl, the tables and the workbook made from it, and the report of one run."""

__all__ = ["read_runs"]


def __getattr__(name: str):
    """`read_runs`, imported on first use: importing pandas takes most of a second."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from proxyclip.reports.frames import read_runs

    return read_runs


def __dir__():
    return sorted([*globals(), *__all__])
