"""torchrun with the error messages and exit code of the processes it starts.

    python -m proxyclip.evaluation.launch [options of torchrun] SCRIPT [its options]

torchrun itself reports every failure with its own traceback and exit code 1, and limits each process to one CPU thread;
here the processes share the cores, unless OMP_NUM_THREADS is set.
"""

import logging
import os
import sys

from proxyclip.runtime import cores_each

BAD_INPUT, INTERRUPTED = 2, 130  # what `main_guard` exits with


def main(arguments: list[str]) -> int:
    """The exit code: 0, 2 if a process refused its input, 130 after Ctrl-C, else 1."""
    # Without a network torch would warn, in every process, that it cannot look up this machine's name.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from torch.distributed import DistNetworkError, DistStoreError, run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.ERROR)  # in this process only; torchrun's notes on what it stops
    if "OMP_NUM_THREADS" not in os.environ:  # torchrun would set it to 1
        processes = run.determine_local_world_size(run.parse_args(arguments).nproc_per_node)
        os.environ["OMP_NUM_THREADS"] = str(cores_each(processes))
    try:
        run.main(arguments)
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        for code in (BAD_INPUT, INTERRUPTED):
            if code in codes:
                return code
        rank, failure = error.get_first_failure()
        print(f"error: process {rank} ended with exit code {failure.exitcode}", file=sys.stderr)
        return 1
    except DistNetworkError as error:
        print(
            f"error: the processes cannot connect: {error}; try another port, for instance PORT=29501", file=sys.stderr
        )
        return BAD_INPUT
    except DistStoreError as error:
        print(f"error: not all machines were started in time: {error}", file=sys.stderr)
        return BAD_INPUT
    except (SignalException, KeyboardInterrupt):
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
