"""How far a run is: a progress bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from proxyclip.evaluation.distributed import Ranks

SECONDS_BETWEEN_LINES = 10


def shown(stream: Iterable, total: int, done: int, ranks: Ranks, name: str) -> Iterator:
    """The stream, while rank 0 shows images done of `total`, images/s and the time left.

    One item of rank 0 stands for one of every rank: they have equal shares.
    """
    if not ranks.first:
        yield from stream
        return
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=name, unit="image") as bar:
            for item in stream:
                yield item
                bar.update(min(ranks.world, total - bar.n))
        return
    started = told = time.monotonic()
    first = done
    for item in stream:
        yield item
        done = min(done + ranks.world, total)
        now = time.monotonic()
        if now - told >= SECONDS_BETWEEN_LINES or done == total:
            told, rate = now, (done - first) / max(now - started, 1e-9)
            left = tqdm.format_interval((total - done) / rate)
            print(f"{name}: {done}/{total} images, {rate:.3g} images/s, {left} left", file=sys.stderr, flush=True)
