"""A run that is killed again and again ends as one that never was: bit for bit, whatever it was doing.

One process imports everything once (the fork server) and starts each run from there in a fraction of a second.
"""

import contextlib
import gc
import multiprocessing
import os
import random
import threading
import time

import torch
from test_resume import assert_same_run
from tiny import train, write_config
from tqdm import tqdm

from d3pm.training import RunFolder

KILLS = 22
FOREVER = "--training.max_steps=1000000"
PRELOAD = [
    "d3pm.cli.train",
    "d3pm.training.trainer",
    "accelerate",
    "scipy.stats",
    "tiny",
    "test_resume",
    "test_kills",
]


def start(config, run, *options):
    """A run in a process of its own, which says nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=silently, args=(config, run, *options), daemon=True)
    process.start()
    return process


def silently(config, run, *options):
    """What such a process does."""
    torch.set_num_threads(1)
    gc.freeze()  # what was imported is not garbage: Trainer has it looked for
    tqdm.set_lock(threading.RLock())  # one between processes would outlive them
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stderr(nowhere),
        contextlib.redirect_stdout(nowhere),
    ):
        raise SystemExit(train(config, run, *options))


def finish(config, run, *options):
    """Let one run to its end."""
    process = start(config, run, *options)
    process.join(60)
    process.kill()
    assert process.exitcode == 0


def staged(folder):
    """What is being written at the moment, or deleted."""
    with contextlib.suppress(OSError):
        return {(file.name, file.stat().st_mtime_ns) for file in folder.staging.iterdir()}
    return set()


def newest(folder):
    return max(folder.checkpoint_steps(), default=0)


def wait_for(process, condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.is_alive(), process.exitcode
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def kill(process, folder, draw):
    """End a process at a random moment, as a power cut does; whether it was saving at that time."""
    before, left = newest(folder), staged(folder)
    moment = draw.choice(["starting", "stepping", "saving", "saving"])
    if moment == "starting":
        time.sleep(draw.uniform(0, 0.5))
    else:
        target = before + draw.randint(1, 3)
        wait_for(process, lambda: newest(folder) >= target)
        if moment == "saving":
            wait_for(process, lambda: staged(folder) - left)
        time.sleep(draw.uniform(0, 0.03))
    process.kill()
    process.join(60)
    return bool(staged(folder) - left)


def test_killed_at_random_moments_a_run_is_the_same_run(tmp_path):
    config = write_config(tmp_path, save_every=1, lr_schedule="constant", eval_every=10**6, log_every=3)
    folder, draw = RunFolder(tmp_path / "killed"), random.Random(0)
    while_saving = 0
    for _ in range(KILLS):
        process = start(config, folder.path, "--resume", "auto", FOREVER)
        while_saving += kill(process, folder, draw)
    steps = folder.checkpoint_steps()[-1] + 2
    print(f"{KILLS} kills in {steps} steps, {while_saving} of them while saving")
    assert while_saving >= 5
    finish(config, folder.path, "--resume", f"--training.max_steps={steps}")
    straight = RunFolder(tmp_path / "straight")
    finish(config, straight.path, f"--training.max_steps={steps}")
    assert_same_run(folder, straight, steps)
    assert folder.checkpoint_steps() == straight.checkpoint_steps()
    assert (folder.path / "model.safetensors").read_bytes() == (
        straight.path / "model.safetensors"
    ).read_bytes()
