"""Several connected processes without torchrun's start-up: forked, so that torch need not be imported again."""

import multiprocessing
import os
import signal
import socket


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(world: int, work, *arguments) -> list:
    """`work(ranks, *arguments)` in `world` processes."""
    port, context = free_port(), multiprocessing.get_context("fork")
    processes = [context.Process(target=enter, args=(rank, world, port, work, arguments)) for rank in range(world)]
    for process in processes:
        process.start()
    return processes


def enter(rank, world, port, work, arguments):
    from proxyclip.evaluation.ranks import start_ranks

    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in here.items()})
    with start_ranks() as ranks:
        work(ranks, *arguments)


def finish(processes) -> None:
    """Waits, and fails if one of them failed."""
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def kill(processes) -> None:
    """Kill -9."""
    for process in processes:
        assert process.is_alive()
        os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join()


def running(process: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        os.kill(process, 0)
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
