"""``d3pm evaluate RUN --samples N``: what a model draws, beside real rows."""

import sys
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from d3pm.cli.forms import Draw, form_of
from d3pm.cli.frames import rows_at_a_time
from d3pm.data.base import DataSource
from d3pm.errors import ConfigError
from d3pm.evaluation import TableQuality, evenly, table_quality
from d3pm.model import DiffusionModel


def check_samples(model: DiffusionModel, config: Any) -> None:
    """Refuse (ConfigError) ``--samples`` where there is nothing to compare, before anything is estimated."""
    if config.samples is None:
        if config.steps is not None:
            raise ConfigError(
                f"--steps is {config.steps}, but only --samples are drawn in steps: give it too"
            )
        return
    if config.samples < 1:
        raise ConfigError(f"--samples is {config.samples}: give 1 or more, e.g. 5000")
    if config.data is not None:
        raise ConfigError(
            "--samples compares with the table of the run, its training rows too, but --data names another: "
            "leave it out"
        )
    if model.objective.classifies:
        raise ConfigError(f"--samples is {config.samples}, but {config.run} is a classifier: leave it out")
    if not getattr(model.codec, "columnwise", False):
        raise ConfigError(
            f"--samples compares rows of tables only as yet, and this model draws {form_of(model).name}: leave it out"
        )
    if config.split == "train":
        raise ConfigError(
            "--samples compares with rows that were not trained on, but --split is train: take test or validation"
        )


def quality(model: DiffusionModel, data: DataSource, config: Any) -> TableQuality:
    """Draw rows, and compare them and their references with a split; as many as training has at most."""
    train, test = rows_of(data.split("train")), rows_of(data.split(config.split))
    num = min(config.samples, len(train))
    if num < config.samples:
        print(
            f"--samples is {config.samples:,}, but there are {num:,} training rows to put beside: {num:,} are drawn",
            file=sys.stderr,
        )
    options = {"steps": config.steps, "seed": config.seed, "batch_size": rows_at_a_time(model)}
    samples = Draw(model, model.network, options, [])(num).cpu()
    codec: Any = model.codec
    return table_quality(samples, train, test, codec, getattr(data, "target", None), config.seed)


def rows_of(data: Dataset) -> Tensor:
    """All rows of a split, int64 (N, C)."""
    whole = evenly(data, len(data))  # type: ignore[arg-type]
    return torch.stack([item["x0"] for item in whole.__getitems__(list(range(len(whole))))])
