"""Runs of tiny models in one process or several, each started from a server that has imported everything."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from several import free_port
from torch.utils.data import Dataset

from d3pm.discrete.process import DiscreteDiffusion
from d3pm.model import DiffusionModel
from d3pm.networks import TransformerDenoiser
from d3pm.objectives import Objective, VariationalBound
from d3pm.training import RunFolder, TrainingConfig
from d3pm.transitions import AbsorbingTransition, UniformTransition

K, LENGTH, STEPS, BATCH = 7, 8, 20, 16
KERNELS = {"absorbing": AbsorbingTransition, "uniform": UniformTransition}
DEADLINE = 240


def server() -> Any:
    """What starts processes: it imports what they need once, and forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["d3pm.training.trainer", "d3pm.discrete", "d3pm.networks"])
    return context


def together(
    size: int, work: Callable[..., object], *args: Any, killed_when: Path | None = None, **options: Any
) -> None:
    """``work(*args, **options)`` in ``size`` processes that know of each other; killed as soon as a file is there."""
    port, context = free_port(), server()
    team = [
        context.Process(target=_enter, args=(rank, size, port, work, args, options), daemon=True)
        for rank in range(size)
    ]
    deadline = time.monotonic() + DEADLINE
    try:
        for process in team:
            process.start()
        while any(process.is_alive() for process in team):
            assert time.monotonic() < deadline, "processes that wait for each other"
            if killed_when is not None and killed_when.exists():
                for process in team:
                    process.kill()
            elif any(process.exitcode for process in team):
                break
            time.sleep(0.01)
    finally:
        for process in team:
            if process.is_alive():
                process.kill()
            process.join()
    codes = [process.exitcode for process in team]
    assert codes == [-signal.SIGKILL if killed_when is not None else 0] * size


def _enter(rank: int, size: int, port: int, work: Callable[..., object], args: tuple, options: dict) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    if size > 1:  # as torchrun does
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    work(*args, **options)


class Rows(Dataset):
    """Random rows that remember which were asked for; padded ones end early."""

    def __init__(self, padded: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x0 = torch.randint(K - 1, (100, LENGTH), generator=generator)  # no whole number of batches
        lengths = torch.randint(1, LENGTH + 1, (100, 1), generator=generator)
        self.mask = (torch.arange(LENGTH) < lengths).long() if padded else None
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.x0)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.asked.append(index)
        mask = {} if self.mask is None else {"attention_mask": self.mask[index]}
        return {"x0": self.x0[index], **mask}


class Nothing:
    """A report that says nothing."""

    def as_dict(self) -> dict[str, float]:
        return {}

    def headline(self, unit: str) -> str:
        return ""


def train(
    folder: Path,
    kernel: str = "absorbing",
    objective: Objective | None = None,
    padded: bool = False,
    stop_file: Path | None = None,
    **settings: Any,
) -> None:
    """Train a tiny model and write what it was asked for; at step 13 ``stop_file`` appears, and nothing goes on."""
    from d3pm.training.trainer import DiffusionTrainer

    torch.manual_seed(0)
    process = DiscreteDiffusion(KERNELS[kernel](num_states=K, num_steps=10))
    network = TransformerDenoiser(
        num_states=K, dim=16, depth=1, heads=2, dropout=settings.pop("dropout", 0.0)
    )
    model = DiffusionModel(
        process=process,
        network=network.double(),  # so that order of summation is all that differs, and does not matter
        objective=objective or VariationalBound(),
        shape=(LENGTH,),
    )
    wanted = {
        "max_steps": STEPS,
        "batch_size": BATCH,
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "log_every": 1,
    }
    wanted |= {"save_every": STEPS, "eval_every": 10**6, "report_to": []}
    rows = Rows(padded)
    trainer = DiffusionTrainer(
        model, TrainingConfig(**(wanted | settings)), RunFolder(folder), rows, lambda model: Nothing()
    )
    if stop_file is not None:
        stop_at(trainer, 13, stop_file)
    trainer.fit()
    (folder / f"asked-{trainer.args.process_index}.json").write_text(json.dumps(rows.asked))
    memory = getattr(trainer.diffusion, "memory", None)
    torch.save(
        {
            "network": trainer.diffusion.network.state_dict(),
            "average": trainer.ema.model.network.state_dict(),
            "memory": None if memory is None else memory.state_dict(),
        },
        folder / f"end-{trainer.args.process_index}.pt",
    )


def stop_at(trainer: Any, step: int, file: Path) -> None:
    """Have the last process say when it is in the middle of a step, and wait to be killed."""
    training_step = trainer.training_step

    def interrupted(*args, **kwargs):
        if trainer.state.global_step == step and trainer.args.process_index == trainer.args.world_size - 1:
            file.touch()
            time.sleep(DEADLINE)
        return training_step(*args, **kwargs)

    trainer.training_step = interrupted


def losses(folder: Path) -> torch.Tensor:
    """The loss of every step."""
    state = RunFolder(folder).checkpoint(STEPS) / "trainer_state.json"
    history = json.loads(state.read_text())["log_history"]
    return torch.tensor([entry["loss"] for entry in history if "loss" in entry])


def gradient_norms(folder: Path) -> torch.Tensor:
    """The length of the gradient of every step."""
    state = RunFolder(folder).checkpoint(STEPS) / "trainer_state.json"
    history = json.loads(state.read_text())["log_history"]
    return torch.tensor([entry["grad_norm"] for entry in history if "loss" in entry])


def end(folder: Path, rank: int = 0) -> dict[str, Any]:
    """The weights that a run ended with, their averages, and what its loss remembers."""
    return torch.load(folder / f"end-{rank}.pt", weights_only=True)


def asked(folder: Path, rank: int = 0, size: int = 1) -> list[int]:
    """The examples that a process saw, in order; it looked one batch further."""
    return json.loads((folder / f"asked-{rank}.json").read_text())[: STEPS * BATCH // size]
