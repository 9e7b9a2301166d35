"""Run a function in several processes that can talk to each other, as ``torchrun`` would start them.

A server imports everything once and forks for every process: starting them takes no time. What they print is shown if
something goes wrong, and where each of them stood if they waited for each other.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import pickle
import queue
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

HEAVY = [
    "d3pm.cli.train",
    "d3pm.training.trainer",
    "d3pm.networks",
    "d3pm.discrete",
    "torch.distributed.fsdp",
]
PATIENCE = 60
"""Seconds."""


def in_processes(number: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What ``function(*args)`` gives in each of ``number`` processes. It must stand in a module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    told: Queue = context.Queue()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / str(rank) for rank in range(number)]
        processes = [
            context.Process(target=_run, args=(rank, number, port, told, log, function, args))
            for rank, log in enumerate(logs)
        ]
        try:
            for process in processes:
                process.start()
            return _answers(processes, told)
        except AssertionError as error:
            said = "".join(
                f"\nprocess {rank}:\n{log.read_text()}" for rank, log in enumerate(logs) if log.exists()
            )
            raise AssertionError(f"{error}{said}") from None
        finally:
            for process in processes:
                process.kill()
                process.join()


def _answers(processes: list[Any], told: Queue) -> list[Any]:
    answers: dict[int, Any] = {}
    deadline = time.monotonic() + PATIENCE
    while len(answers) < len(processes):
        try:
            rank, answer, problem = told.get(timeout=0.5)
        except queue.Empty:
            assert time.monotonic() < deadline, "they wait for each other"
            dead = [process.exitcode for process in processes if process.exitcode]
            assert not dead or not told.empty(), f"one ended with {dead[0]}"
        else:
            assert problem is None, problem
            answers[rank] = pickle.loads(answer)
    return [answers[rank] for rank in range(len(processes))]


def _run(rank: int, number: int, port: int, told: Queue, log: Path, function: Callable, args: tuple) -> None:
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    os.environ.update({name: str(value) for name, value in (here | meeting).items()})
    import torch

    torch.set_num_threads(1)
    with (
        open(log, "w", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        faulthandler.dump_traceback_later(PATIENCE - 5, file=file)
        try:
            told.put((rank, pickle.dumps(function(*args)), None))
        except BaseException:
            told.put((rank, None, traceback.format_exc()))
        faulthandler.cancel_dump_traceback_later()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
