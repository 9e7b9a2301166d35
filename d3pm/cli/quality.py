"""``d3pm evaluate RUN --samples N``: what a model draws, beside what is real and what costs nothing."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from d3pm.cli.choices import check_grid, find_grid
from d3pm.cli.forms import Draw, form_of, takes_its_own
from d3pm.cli.frames import Tables
from d3pm.cli.model import codec_of, load_model
from d3pm.cli.targets import check_new
from d3pm.cli.texts import Texts
from d3pm.data.base import Codec, DataSource
from d3pm.data.image_codec import requantize
from d3pm.errors import ConfigError, DataError
from d3pm.evaluation import (
    ClassifierFeatures,
    Features,
    InceptionFeatures,
    LanguageModel,
    PictureJudge,
    PixelFeatures,
    QualityCurve,
    TextJudge,
    evenly,
    quality_curve,
    table_quality,
)
from d3pm.evaluation.frechet import check_number
from d3pm.evaluation.picture_quality import PictureQuality
from d3pm.evaluation.quality_curve import Quality
from d3pm.evaluation.table_quality import TableQuality
from d3pm.evaluation.text_quality import TextQuality
from d3pm.model import DiffusionModel
from d3pm.parallel import everyone
from d3pm.sampling import Ancestral, Sampler, Samples, times_of

HELDOUT = 1_000_000
"""Tokens of held-out text that drawn text is compared with, at most."""
PICTURES = 10_000
"""Training pictures that drawn ones are compared with, at most."""
OWNERS = {"language_model": "text", "features": "pictures"}
"""Options that one form of samples has, by its name."""
OPTIONS = {"steps": None, "sampler": None, "grid": "uniform", "curve": None, "samples_table": None}
"""Those of all forms that need --samples, and what they are if not given."""


Judging = tuple[int, Callable[[], Callable[[Tensor], Quality]]]
"""How many samples are judged, and what makes their judge, which may take long and is made in one process only."""


@dataclass(frozen=True)
class Plan:
    """All that is needed to draw and to judge, checked before the first network call.

    Attributes:
        num: Samples of each kind.
        steps: The numbers of steps.
        draw: What draws them.
        judge: What they are worth, of the samples as the model gives them; None where another process judges.
    """

    num: int
    steps: list[int]
    draw: Draw
    judge: Callable[[Tensor], Quality] | None

    def __call__(self) -> QualityCurve | None:
        """Draw and judge; or draw a share, for the process that judges."""
        if self.judge is not None:
            return quality_curve(self._drawn, self.judge, self.steps)
        for steps in self.steps:
            self._drawn(steps)
        return None

    def _drawn(self, steps: int) -> Samples:
        return self.draw.samples(self.num, steps=steps)


def check_samples(model: DiffusionModel, config: Any) -> None:
    """Refuse (ConfigError) ``--samples`` where there is nothing to compare, and what needs it where it is not given."""
    if config.samples is None:
        _refuse_without_samples(config)
        return
    if config.samples < 1:
        raise ConfigError(f"--samples is {config.samples}: give 1 or more, e.g. 5000")
    if config.data is not None:
        raise ConfigError(
            "--samples compares with the data of the run, its training part too, but --data names another: "
            "leave it out"
        )
    if model.objective.classifies:
        raise ConfigError(f"--samples is {config.samples}, but {config.run} is a classifier: leave it out")
    if config.split == "train":
        raise ConfigError(
            "--samples compares with what was not trained on, but --split is train: take test or validation"
        )
    form = form_of(model)
    for name, owner in OWNERS.items():
        if config[name] is not None and form.name != owner:
            raise ConfigError(f"--{name} is for {owner}, but this model draws {form.name}: leave it out")
    check_new(config.curve, "--curve", (".png", ".pdf", ".svg"), config.overwrite)
    check_new(config.samples_table, "--samples_table", ".csv", config.overwrite)


def _refuse_without_samples(config: Any) -> None:
    for name, default in (OPTIONS | dict.fromkeys(OWNERS)).items():
        if config[name] != default:
            value = getattr(config[name], "class_path", config[name])
            reason = "only --samples are drawn in steps" if name == "steps" else "it is about --samples"
            raise ConfigError(f"--{name} is {value}, but {reason}: give it too")


def steps_of(text: str | None, model: DiffusionModel, sampler: Sampler, grid: Any) -> list[int]:
    """The numbers of steps in ``64`` or ``8,16,64``; what the sampler is used to if nothing is given.

    Raises:
        ConfigError: If one is no number, is not to be taken in this process, or is there twice.
    """
    if text is None:
        return [sampler.default_steps(model.process)]
    parts = [part.strip() for part in text.strip("[] ").split(",")]
    if not all(part.isdecimal() for part in parts) or len({*map(int, parts)}) < len(parts):
        raise ConfigError(f"--steps is {text}: give different whole numbers, e.g. 64 or 8,16,64")
    if len(parts) > 1 and takes_its_own(sampler, model.process):
        raise ConfigError(
            f"--steps is {text}, but {type(sampler).__name__} makes as many network calls as it needs in any number "
            "of steps: leave it out"
        )
    for part in parts:
        times_of(model.process, int(part), grid)
    return [int(part) for part in parts]


def plan_samples(model: DiffusionModel, data: DataSource, config: Any, sampler: Sampler | None) -> Plan:
    """Find out what to draw and what to hold it against; reads the data, asks no network of the model's.

    Raises:
        ConfigError: If an option does not fit the model.
        DataError: If there is too little to compare with.
    """
    stepper, grid = sampler or Ancestral(), find_grid(config.grid, model)
    stepper.check_process(model.process)
    check_grid(model, config.grid, config.steps)
    steps = steps_of(config.steps, model, stepper, grid)
    form = form_of(model)
    plan_judge = _tables if isinstance(form, Tables) else _texts if isinstance(form, Texts) else _pictures
    num, make_judge = plan_judge(model, data, config)
    team = everyone()
    options = {
        "seed": config.seed,
        "batch_size": form.batch_size(model),
        "sampler": stepper,
        "grid": grid,
    }
    labels = classes_of(evenly(data.split(config.split), num)) if _has_classes(model) else []
    return Plan(num, steps, Draw(model, model.network, options, labels, team=team), team.once(make_judge))


def _tables(model: DiffusionModel, data: DataSource, config: Any) -> Judging:
    num = _at_most(config.samples, length_of(data, "train"), "training rows")
    codec: Any = model.codec
    target = getattr(data, "target", None)

    def make() -> Callable[[Tensor], TableQuality]:
        train, test = rows_of(data.split("train")), rows_of(data.split(config.split))
        return lambda x: table_quality(x, train, test, codec, target, config.seed)

    return num, make


def _texts(model: DiffusionModel, data: DataSource, config: Any) -> Judging:
    codec, heldout, length = codec_of(model), data.split(config.split), length_of(data, config.split)
    num = _at_most(config.samples, length // 2, f"{config.split} texts, besides as many to compare with,")

    def make() -> Callable[[Tensor], TextQuality]:
        judge = None if config.language_model is None else LanguageModel.load(config.language_model)
        most = max(2 * num, HELDOUT // model.shape[0])
        real = [text for rows in rows_in_parts(evenly(heldout, most)) for text in decoded(rows, codec)]
        texts = TextJudge(
            real,
            training_texts(data.split("train"), codec),
            num,
            unigram=codec.decode(unigram_rows(data.split("train"), num, model.shape[0], config.seed)),
            language_model=judge,
        )
        return lambda x: texts(codec.decode(x))

    return num, make


def _pictures(model: DiffusionModel, data: DataSource, config: Any) -> Judging:
    codec: Any = codec_of(model)
    num = _at_most(config.samples, length_of(data, config.split), f"{config.split} pictures")

    def make() -> Callable[[Tensor], PictureQuality]:
        train = in_bytes(rows_of(evenly(data.split("train"), PICTURES)), codec)
        real = in_bytes(rows_of(data.split(config.split)), codec)
        features = features_of(config.features, model, train)
        try:
            check_number(num, features.size)
        except DataError as error:
            raise ConfigError(f"--samples is {config.samples}: {error}") from error
        judge = PictureJudge(real, train, num, features=features, seed=config.seed)
        return lambda x: judge(in_bytes(x, codec))

    return num, make


def features_of(name: str | None, model: DiffusionModel, train: Tensor) -> Features:
    """What pictures are compared in: ``pixels``, ``inception``, or the run of a classifier of such pictures.

    Raises:
        ConfigError: If the run is no classifier, or one of pictures of another shape.
    """
    if name in (None, "pixels"):
        return PixelFeatures.fit(train)
    if name == "inception":
        return InceptionFeatures()
    its, _ = load_model(str(name))
    if not its.objective.classifies:
        raise ConfigError(
            f"--features {name} is no classifier: train one with objective d3pm.classification.Classification, "
            "or take pixels or inception"
        )
    if its.shape != model.shape:
        raise ConfigError(
            f"--features {name} knows pictures of shape {its.shape}, the model draws {model.shape}: train one on "
            "the model's data"
        )
    its_codec: Any = codec_of(its)
    return ClassifierFeatures(its.network, its_codec)


def classes_of(data: Dataset) -> list[int]:
    """The class of each item: what is drawn has those of the real ones beside it, so that chance has one part less."""
    return [int(item["labels"]) for part in rows_in_parts(data) for item in part]


def _has_classes(model: DiffusionModel) -> bool:
    return getattr(model.network, "num_classes", None) is not None


def in_bytes(x: Tensor, codec: Any) -> Tensor:
    """Rows of pictures as 8-bit levels, uint8 (N, C, H, W)."""
    levels = codec.symbols(x.cpu()).clamp(max=codec.levels - 1).numpy()
    return torch.from_numpy(requantize(levels, codec.levels, 256))


def training_texts(data: Dataset, codec: Codec, seed: int = 0) -> Iterator[str]:
    """The rows of a split as texts, in an order drawn once, so that the first ones are from everywhere."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
    for rows in rows_in_parts(torch.utils.data.Subset(data, order.tolist())):
        yield from decoded(rows, codec)


def unigram_rows(data: Dataset, num: int, length: int, seed: int) -> Tensor:
    """Rows of tokens drawn one by one from all over a split, int64 (num, length)."""
    parts = rows_in_parts(evenly(data, 4096))
    pool = torch.cat([tokens for rows in parts for tokens in unpadded(rows)])
    which = torch.randint(len(pool), (num, length), generator=torch.Generator().manual_seed(seed))
    return pool[which]


def decoded(rows: list[dict[str, Tensor]], codec: Codec) -> list[str]:
    """Rows as texts, without their padding."""
    if "attention_mask" in rows[0]:
        return [codec.decode(tokens[None])[0] for tokens in unpadded(rows)]
    return codec.decode(torch.stack([row["x0"] for row in rows]))


def unpadded(rows: list[dict[str, Tensor]]) -> list[Tensor]:
    """The tokens of each row that count."""
    return [row["x0"][row["attention_mask"].bool()] if "attention_mask" in row else row["x0"] for row in rows]


def rows_in_parts(data: Dataset, size: int = 4096) -> Iterator[list[dict[str, Tensor]]]:
    """All items of a split, some at a time."""
    length = len(data)  # type: ignore[arg-type]
    for start in range(0, length, size):
        yield data.__getitems__(list(range(start, min(start + size, length))))  # type: ignore[attr-defined]


def rows_of(data: Dataset) -> Tensor:
    """All rows of a split, (N, \\*)."""
    whole = evenly(data, len(data))  # type: ignore[arg-type]
    return torch.stack([item["x0"] for part in rows_in_parts(whole) for item in part])


def length_of(data: DataSource, split: str) -> int:
    """How many rows a split has."""
    return len(data.split(split))  # type: ignore[arg-type]


def _at_most(samples: int, most: int, what: str) -> int:
    """As many as there are to put beside; says so if that is fewer."""
    if samples > most and everyone().first:
        print(
            f"--samples is {samples:,}, but there are {most:,} {what} to put beside: {most:,} are drawn",
            file=sys.stderr,
        )
    return min(samples, most)
