"""``d3pm train --config CONFIG --output RUN``: from a config to a model and what it is worth."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import Namespace

from d3pm.cli.evaluate import evaluate
from d3pm.cli.experiment import (
    add_experiment,
    as_now,
    check_fits,
    check_kind,
    check_resume,
    check_same_codec,
    dump,
    load_settings,
    suited,
)
from d3pm.cli.forms import Draw, form_of
from d3pm.cli.memory import short_of_memory, smaller_micro_batches
from d3pm.cli.model import codec_of
from d3pm.cli.parser import Parser
from d3pm.cli.report import report_lines, unit
from d3pm.data.base import DataSource
from d3pm.errors import CheckpointError, ConfigError
from d3pm.evaluation import Report, judge
from d3pm.model import DiffusionModel
from d3pm.parallel import everyone
from d3pm.training import RunFolder, TrainingConfig
from d3pm.training.run import program

DESCRIPTION = """Train a model from a config, or go on with a run that was stopped.

  d3pm train --config configs/quickstart.yaml
  d3pm train --config configs/quickstart.yaml --output runs/wide --network.dim 256 --training.max_steps 2000
  d3pm train --config runs/first/config.yaml --output runs/first --resume
  d3pm train --config configs/quickstart.yaml --output runs/first --resume auto    # start it, or go on with it

Every key of a config is an option too. data, process, network and objective name a class and its arguments.
Any class of the right kind will do, yours as well; `d3pm train --network.help CLASS` tells what one takes."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    parser = Parser(prog="d3pm train", description=DESCRIPTION)
    parser.add_argument(
        "--output", type=str | None, help="folder of the run; null: runs/NAME for a config NAME.yaml"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="run",
        type=Literal["run", "auto"] | None,
        help="go on from the newest whole checkpoint of the run in --output; `auto`: where there is a run, and else "
        "start one, as a job that a scheduler starts again and again does",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="delete the run in --output and start afresh"
    )
    add_experiment(parser)
    config = parser.parse_args(argv)
    folder = RunFolder(config.output or default_output(config))
    first = everyone().first
    settings = dump(parser, config)
    resume = config.resume == "run" or (config.resume == "auto" and folder.used)
    if first:
        folder.check_may_write(resume=resume, overwrite=config.overwrite)
        if resume:
            check_resume(as_now(parser, load_settings(folder.config_file)), yaml.safe_load(settings))
    torch.manual_seed(config.training.seed)
    experiment = parser.instantiate(config)
    data = experiment.data
    process, network = suited(experiment.process, experiment.network, data)
    check_kind(network, experiment.objective)
    check_fits(data, process, network, experiment.training)
    last = folder.last_checkpoint() if first and resume else None
    if last is not None:
        check_same_codec(data, last)
    model = DiffusionModel(
        process=process,
        network=network,
        objective=experiment.objective,
        codec=data.codec,
        shape=data.shape,
    )
    if first:
        if config.overwrite:
            folder.clear()
        folder.write_config(settings)
        if not config.output:
            print(f"no --output given: the run is kept in {folder.path}", file=sys.stderr)
        print(data.describe(), file=sys.stderr)
    return run(model, data, experiment.training, folder)


def default_output(config: Namespace) -> Path:
    """Where a run goes that was given no folder: named after its config.

    Raises:
        ConfigError: If there is no config to name it after.
    """
    if not config.config:
        raise ConfigError("--output is not given, and no --config to name the run after: give a folder")
    return Path("runs") / Path(str(config.config[-1])).stem


def run(model: DiffusionModel, data: DataSource, config: TrainingConfig, folder: RunFolder) -> int:
    """Train, keep the model and say what it is worth; 128 + its number if a signal stopped the training."""
    from d3pm.training.trainer import DiffusionTrainer

    held_out = data.split("validation")

    def report(model: DiffusionModel) -> Report:
        return judge(
            model,
            held_out,
            num_examples=config.eval_examples,
            num_times=config.eval_times,
            batch_size=config.micro_batch_size or config.batch_size,
            team=everyone(),
        )

    processes, micro = everyone().size, config.here().micro_batch_size
    with short_of_memory(smaller_micro_batches(micro, config.batch_size, processes)):
        trainer = DiffusionTrainer(model, config, folder, data.split("train"), report, unit(data.codec))
        try:
            finished = trainer.fit()
        except KeyboardInterrupt:
            finished = False
        except RuntimeError as error:
            if processes == 1 or not _is_of_messages(error):
                raise
            raise CheckpointError(
                f"another process failed or was killed: what it said stands apart from this; go on with "
                f"`{folder.resume_command}`"
            ) from error
    if not finished:
        if everyone().first:
            print(f"d3pm train: stopped; go on with `{folder.resume_command}`", file=sys.stderr)
        return 128 + (trainer.stop.received or 2)
    with short_of_memory(
        f"the model is kept, `{program()} evaluate {folder.path} --batch-size 8` takes less"
    ):
        conclude(trainer.ema.model, data, folder)
    trainer.accelerator.wait_for_everyone()  # processes that leave early take the others down
    trainer.end()
    return 0


def _is_of_messages(error: RuntimeError) -> bool:
    """Whether processes could not talk: gloo says so in words only."""
    kinds = ("DistBackendError", "DistNetworkError", "DistStoreError")
    return type(error).__name__ in kinds or "gloo" in str(error) or "Connection closed" in str(error)


def conclude(model: DiffusionModel, data: DataSource, folder: RunFolder) -> None:
    """Print what the model is worth on the test split, a few samples if it draws any, and what to type next.

    All processes take part, and the first one prints.
    """
    report, entropy = evaluate(model, data, split="test")
    items = [] if model.objective.classifies else _first_samples(model)
    if not everyone().first:
        return
    print(report_lines(report, entropy, "test", data))
    if model.objective.classifies:
        print(f"\nnext:\n  {program()} sample RUN --classifier {folder.path} --label 3")
    else:
        _show(items, model, folder)
    print(f"  {program()} evaluate {folder.path} --num-examples 2000 --num-times 64")


def _first_samples(model: DiffusionModel) -> list[Any]:
    """A few, one batch of them: drawn in every process, as weights that are sharded over them need it."""
    return codec_of(model).decode(Draw.freely(model, _few_steps(model))(form_of(model).few))


def _few_steps(model: DiffusionModel) -> int:
    return min(model.process.num_steps, 128)


def _show(items: list[Any], model: DiffusionModel, folder: RunFolder) -> None:
    form, steps = form_of(model), _few_steps(model)
    print(f"\n{form.keep(items, folder.path)}")
    print("\nnext:")
    print(f"  {program()} sample {folder.path} --num {form.few} --steps {steps} {form.more}".rstrip())
