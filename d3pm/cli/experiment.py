"""What a config may hold, how a run keeps it, and what must agree before anything is trained."""

from inspect import signature
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, Namespace
from torch import nn

from d3pm.cli.parser import Parser
from d3pm.data.base import SPLITS, DataSource
from d3pm.data.feed import Portion, StepFeed, StreamedRows
from d3pm.errors import CheckpointError, ConfigError, DataError
from d3pm.objectives import Objective
from d3pm.process import Process
from d3pm.training.config import MAY_CHANGE_ON_RESUME, TrainingConfig

KEYS = ("data", "process", "network", "objective", "training")


def add_experiment(parser: Parser) -> None:
    """The keys of a config, each a class path with arguments, and ``training``."""
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with the keys below")
    parser.add_subclass_arguments(DataSource, "data", required=True, help="where the data comes from")
    parser.add_subclass_arguments(Process, "process", required=True, help="how it is destroyed")
    parser.add_subclass_arguments(nn.Module, "network", required=True, help="what looks at the ruins")
    parser.add_subclass_arguments(Objective, "objective", required=True, help="what is minimised")
    parser.add_class_arguments(TrainingConfig, "training")


def dump(parser: Parser, config: Namespace) -> str:
    """The experiment in full as YAML, defaults included, without what only one command is about."""
    kept = Namespace(**{key: config[key] for key in KEYS})
    return parser.dump(kept, skip_unset=False, skip_validation=True)


def load_settings(file: Path) -> dict[str, Any]:
    """A run's config as nested dicts.

    Raises:
        CheckpointError: If there is none, or it is no YAML.
    """
    try:
        settings = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"{file} cannot be read ({type(error).__name__}): name the folder of a run"
        ) from error
    if not isinstance(settings, dict) or "data" not in settings:
        raise CheckpointError(f"{file} has no key `data`: it is not the config of a run")
    return settings


def load_data(file: Path) -> DataSource:
    """The data a config names."""
    parser = Parser()
    parser.add_subclass_arguments(DataSource, "data", required=True)
    config = parser.parse_object({"data": load_settings(file)["data"]})
    return parser.instantiate(config).data


def as_now(parser: Parser, old: dict[str, Any]) -> dict[str, Any]:
    """A run's config with the defaults of settings that were not there yet when it was written.

    Raises:
        CheckpointError: If it names what is no longer there.
    """
    try:
        settings: dict[str, Any] = yaml.safe_load(dump(parser, parser.parse_object(old)))
    except ConfigError as error:
        raise CheckpointError(
            f"the config of the run to resume does not fit this version of d3pm ({error}): go on with the version "
            "it was started with"
        ) from error
    return settings


def check_resume(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse to go on with a run under settings that would make it another run.

    Raises:
        ConfigError: Names every field that differs, and both values.

    >>> check_resume({"network": {"dim": 64, "depth": 2}}, {"network": {"dim": 32, "depth": 4}})
    Traceback (most recent call last):
    d3pm.errors.ConfigError: network.depth is 4, but the run to resume has 2; network.dim is 32, but the run to \
resume has 64: give the old values, or start a new run in another --output
    """
    before, after = dict(_flat(old)), dict(_flat(new))
    free = {f"training.{name}" for name in MAY_CHANGE_ON_RESUME}
    differ = [
        f"{field} is {_said(after, field)}, but the run to resume has {_said(before, field)}"
        for field in sorted(before.keys() | after.keys())
        if _said(before, field) != _said(after, field) and not free & {field, field.rpartition(".")[0]}
    ]
    if differ:
        raise ConfigError(
            f"{'; '.join(differ)}: give the old value{'s' * (len(differ) > 1)}, or start a new run in another --output"
        )


def _said(settings: dict[str, Any], field: str) -> str:
    return str(settings[field]) if field in settings else "none"


def check_same_codec(data: DataSource, checkpoint: Path) -> None:
    """Refuse to go on with a model whose symbols mean something else by now: the data or its cache has changed.

    Raises:
        ConfigError: If the data's codec is not the checkpoint's.
    """
    if type(data.codec).from_pretrained(checkpoint) != data.codec:
        raise ConfigError(
            f"data: its code or tokenizer is not that of {checkpoint}, so the data has changed since: "
            "bring the old data back, or start a new run in another --output"
        )


def _flat(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(tree, dict):
        return [(prefix, tree)]
    return [
        leaf
        for key, value in tree.items()
        for leaf in _flat(value, f"{prefix}.{key}" if prefix else str(key))
    ]


def check_kind(network: nn.Module, objective: Objective) -> None:
    """Refuse a classifier that is to denoise, and a denoiser that is to classify.

    Raises:
        ConfigError: Names both.
    """
    if not hasattr(network, "num_classes") or not hasattr(network, "in_channels"):
        return
    denoises = hasattr(network, "out_channels")
    if denoises == objective.classifies:
        names = f"network {type(network).__name__} and objective {type(objective).__name__}"
        raise ConfigError(
            f"{names}: the one {'gives pictures' if denoises else 'gives classes'}, the other wants "
            f"{'classes' if denoises else 'pictures'}: change one of them"
        )


def suited(process: Process, network: nn.Module, data: DataSource) -> tuple[Process, nn.Module]:
    """Both with whatever the config left open filled in from the data, such as the states of each column."""
    complete = getattr(network, "suited", None)
    return process.suited(data), complete(data) if callable(complete) else network


def check_fits(data: DataSource, process: Process, network: nn.Module, training: TrainingConfig) -> None:
    """Have data, process, network and machine agree before an hour is spent, or an old run deleted.

    Raises:
        ConfigError: If they speak of different states or classes, or the machine cannot do what is asked.
        DataError: If a split is too short, or the training split is smaller than a batch.
    """
    here = training.here()
    process.check_codec(data.codec)
    splits: list[Any] = [data.split(name) for name in SPLITS]
    if isinstance(splits[0], StreamedRows):
        processes = training.batch_size // (here.micro_batch_size * here.accumulation)
        portion = Portion(training.batch_size, here.micro_batch_size, 0, processes)
        StepFeed(splits[0], portion, training.num_workers)  # refuses what does not divide
    elif (examples := len(splits[0])) < training.batch_size:
        raise DataError(
            f"training.batch_size is {training.batch_size}, but the training split has {examples} examples of "
            f"shape {tuple(data.shape)}: lower it, make examples shorter, or give more data"
        )
    _check_segments(splits[1][0], network)
    _check_classes(getattr(data, "num_classes", None), getattr(network, "num_classes", None))


def _check_segments(example: dict[str, Any], network: nn.Module) -> None:
    """Refuse a network that would look from one document of a row at the others."""
    if "segments" in example and "segments" not in signature(network.forward).parameters:
        raise ConfigError(
            f"data.documents is whole, but network {type(network).__name__} cannot tell the documents of a row "
            "apart: set it to padded or packed, or take TransformerDenoiser"
        )


def _check_classes(theirs: int | None, ours: int | None) -> None:
    """Refuse labels that the network does not know, and a network that waits for labels in vain."""
    if theirs is None and ours is not None:
        raise ConfigError(
            f"network.num_classes is {ours}, but the data gives no labels: set data.labels to true, or "
            "num_classes to null"
        )
    if theirs is not None and theirs != ours:
        raise ConfigError(
            f"network.num_classes is {ours}, but the data has {theirs} classes: set it to {theirs}, or "
            "data.labels to false"
        )
