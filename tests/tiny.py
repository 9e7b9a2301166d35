"""The smallest run that is still a run: a config for a few words of text and a network that trains in a second."""

import random
from pathlib import Path

import yaml

from d3pm.cli import main

WORDS = [
    "the",
    "a",
    "mask",
    "is",
    "noise",
    "step",
    "back",
    "time",
    "data",
    "law",
    "of",
    "in",
    "and",
    "to",
    "from",
]


def write_config(folder: Path, **training) -> Path:
    """A config in ``folder``, and the text it names; 7 steps are an epoch."""
    words = random.Random(0).choices(WORDS, k=600)
    (folder / "words.txt").write_text(" ".join(words)[:2000])
    config = {
        "data": {
            "class_path": "d3pm.data.TextData",
            "init_args": {
                "source": str(folder / "words.txt"),
                "block_size": 16,
                "cache_dir": str(folder / "cache"),
            },
        },
        "process": {
            "class_path": "d3pm.discrete.process.DiscreteDiffusion",
            "init_args": {
                "transition": {
                    "class_path": "d3pm.transitions.AbsorbingTransition",
                    "init_args": {"num_states": 28, "num_steps": 20},
                }
            },
        },
        "network": {
            "class_path": "d3pm.networks.TransformerDenoiser",
            "init_args": {"num_states": 28, "dim": 16, "depth": 1, "heads": 2, "dropout": 0.1},
        },
        "objective": {"class_path": "d3pm.objectives.VariationalBound"},
        "training": {
            "max_steps": 12,
            "batch_size": 16,
            "learning_rate": 0.01,
            "warmup_steps": 2,
            "eval_every": 4,
            "eval_examples": 4,
            "eval_times": 2,
            "save_every": 4,
            "log_every": 1,
            "report_to": [],
            **training,
        },
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def train(config: Path, run: Path, *options: str) -> int:
    """``d3pm train`` in this process; the exit code."""
    return main(["train", "--config", str(config), "--output", str(run), *options])
