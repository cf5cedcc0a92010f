"""A progress bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10
Item = TypeVar("Item")


def progress_bar(
    items: Iterable[Item],
    total: int,
    name: str,
    unit: str,
    done: int = 0,
    size: Callable[[Item], int] = lambda _: 1,
    note: Callable[[], str] = lambda: "",
) -> Iterator[Item]:
    """The items, while standard error tells how many units are done of `total`, units a second and the time left.

    done: units that were done before. size: units that an item holds; what goes beyond `total` is not counted. note:
    text behind the rest, asked for whenever a line is written.
    """
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=name, unit=unit) as bar:
            for item in items:
                yield item
                bar.set_postfix_str(note(), refresh=False)
                bar.update(min(size(item), total - bar.n))
        return
    started = printed = time.monotonic()
    before = done
    for item in items:
        yield item
        done = min(done + size(item), total)
        now = time.monotonic()
        if now - printed >= SECONDS_BETWEEN_LINES or done == total:
            printed, rate = now, (done - before) / max(now - started, 1e-9)
            left = tqdm.format_interval((total - done) / rate)
            parts = [f"{name}: {done}/{total} {unit}s", f"{rate:.3g} {unit}s/s", f"{left} left", note()]
            print(*filter(None, parts), sep=", ", file=sys.stderr, flush=True)
