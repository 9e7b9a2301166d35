"""Finding a trained model: in a run's folder, or in one of its checkpoints."""

from pathlib import Path

from transformers.utils import logging

from d3pm.data.base import Codec
from d3pm.errors import CheckpointError
from d3pm.model import DiffusionModel
from d3pm.parallel import local_device
from d3pm.training import RunFolder


def load_model(path: str) -> tuple[DiffusionModel, Path]:
    """The model at ``path``, on this process's GPU if there is one, and the folder of the run it belongs to.

    Raises:
        CheckpointError: If there is none, or it cannot be read; the message says what to do.
    """
    folder = RunFolder(path).require_model()
    logging.disable_progress_bar()  # of reading files
    logging.set_verbosity_error()  # what is amiss is raised
    model = DiffusionModel.from_pretrained(folder)
    run = folder.parent.parent  # of a checkpoint
    home = run if folder.parent.name == "checkpoints" and (run / "config.yaml").is_file() else folder
    return model.to(local_device()).eval(), home  # type: ignore[arg-type]


def load_generator(path: str) -> tuple[DiffusionModel, Path]:
    """The same, for a model that draws samples.

    Raises:
        CheckpointError: If it is a classifier.
    """
    model, home = load_model(path)
    if model.objective.classifies:
        raise CheckpointError(
            f"{path} is a classifier and draws nothing: guide a model with it, d3pm sample RUN --classifier {path}"
        )
    return model, home


def codec_of(model: DiffusionModel) -> Codec:
    """The codec of a model.

    Raises:
        CheckpointError: If it has none: it was saved without.
    """
    if model.codec is None:
        raise CheckpointError(
            "the model has no codec, so its symbols cannot be shown: give it one and save it again"
        )
    return model.codec
