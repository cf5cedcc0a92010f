"""What the benchmarks share: a measurement is a process of its own, and the ways to be compared take turns.

A script starts itself with `--one JSON`, and that process prints its result as the last line. So peak memory is that of
one way alone, and changes in the speed of the machine affect all ways.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TITLES = ["time", "speed", "by processor time", "peak memory"]


def machine() -> str:
    """The processor, its cores, and the date."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {date.today()}"


def measure(run: Callable[[], object]) -> dict[str, float]:
    """Seconds, seconds of processor time, and peak memory in GiB, of one call that leaves nothing to wait for.

    The memory is that of this process since it started, or what PyTorch has allocated on a CUDA device.
    """
    started, busy = time.perf_counter(), time.process_time()
    run()
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    torch = sys.modules.get("torch")  # not imported here: a child's peak includes what its parent held at its start
    if torch and torch.cuda.is_initialized():
        peak = torch.cuda.max_memory_allocated() / 2**30
    return {"seconds": seconds, "processor": busy, "peak": peak}


def in_a_process(script: str, job: dict, folder: Path = ROOT, threads: int | None = None) -> dict:
    """What `script --one JOB` prints as its last line, run in `folder`; its errors end the benchmark."""
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    command = [sys.executable, script, "--one", json.dumps(job)]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(script: str, ways: dict[str, dict], rounds: int, threads: int | None = None) -> dict[str, list[dict]]:
    """Way -> the results of all rounds. ways: title -> job; "folder" in it is where it runs."""
    results = {way: [] for way in ways}
    for _ in range(rounds):
        for way, job in ways.items():
            results[way].append(in_a_process(script, job, job.get("folder", ROOT), threads))
    return results


def cells(results: list[dict], first: list[dict]) -> list[str]:
    """Under TITLES: medians over rounds; speeds are ratios to the first way's within a round."""
    ratios = [statistics.median(a[name] / b[name] for a, b in zip(first, results, strict=True))
              for name in ("seconds", "processor")]  # fmt: skip
    seconds, peak = (statistics.median(result[name] for result in results) for name in ("seconds", "peak"))
    return [f"{seconds:.2f} s", *(f"{ratio:.2f}×" for ratio in ratios), f"{peak:.2f} GiB"]


def mean_of(values: list[float]) -> str:
    """The mean, and in brackets each value if there are several."""
    each = f" ({', '.join(f'{value:.1f}' for value in values)})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{each}"


def row(texts: list[str]) -> str:
    """Of a table in Markdown."""
    return f"| {' | '.join(texts)} |"


def table(titles: list[str], rows: list[list[str]]) -> str:
    return "\n".join(map(row, [titles, ["---"] * len(titles), *rows]))
