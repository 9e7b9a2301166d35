"""The command line on pictures whose grey levels are states: the same verbs as on floats, and what only those have."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from test_cli import output, refusal

from d3pm.cli import main
from d3pm.cli.pictures import GAP, grid
from d3pm.guidance import ClassifierFreeGuidance
from d3pm.model import DiffusionModel
from d3pm.sampling import Samples

WITHIN = {"size": 8, "in_channels": 1, "out_channels": 17, "channels": [8], "attention_at": [], "layers": 1}
TRAINING = {
    "max_steps": 3,
    "batch_size": 16,
    "eval_examples": 4,
    "eval_times": 2,
    "log_every": 1,
    "report_to": [],
}
KERNEL = {"num_states": 17, "num_steps": 12, "schedule": {"class_path": "d3pm.schedules.CosineSchedule"}}
MASKED = [
    *("--process.transition", "AbsorbingTransition", "--process.transition.schedule", "ReciprocalSchedule"),
    *("--process.transition.num_states", "18", "--network.num_states", "18", "--network.num_levels", "17"),
]


def part(path, **arguments):
    return {"class_path": path, "init_args": arguments}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    within = part("d3pm.networks.UNetDenoiser", **WITHIN, num_classes=10)
    kernel = part("d3pm.transitions.DiscretizedGaussianTransition", **KERNEL)
    config = {
        "data": part("d3pm.data.ImageData", source="digits", labels=True, discrete=True),
        "process": part("d3pm.discrete.process.DiscreteDiffusion", transition=kernel),
        "network": part("d3pm.networks.PixelLogits", network=within, num_states=17),
        "objective": part("d3pm.objectives.AuxiliaryBound", weight=0.001),
        "training": TRAINING,
    }
    file = tmp_path_factory.mktemp("levels") / "digits.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def train(config, name, *options):
    run = config.parent / name
    assert main(["train", "--config", str(config), "--output", str(run), *options]) == 0
    return run


@pytest.fixture(scope="module")
def run(config):
    return train(config, "run")


@pytest.fixture(scope="module")
def masked(config):
    return train(config, "masked", *MASKED, "--network.network.in_channels", "2")


# train


def test_a_run_ends_with_a_sheet_and_is_scored_in_bits_per_dim(run, capsys):
    with Image.open(run / "samples.png") as sheet:
        assert sheet.size == (GAP + 4 * (64 + GAP),) * 2
    shown = output(capsys, "evaluate", run, "--num-examples", 4, "--num-times", 2)
    assert "bits/dim" in shown
    assert "unigram entropy" in shown


def test_two_numbers_for_each_entry_will_do(config):
    run = train(config, "logistic", "--network", "TruncatedLogistic", "--network.network.out_channels", "2")
    assert DiffusionModel.from_pretrained(run).network.outputs == 2


BAD_CONFIGS = {
    "floats": (["--data.discrete", "false"], "set data.discrete to true"),
    "other levels": (["--data.levels", "9"], "has levels=17, but the pictures have levels=9"),
    "other size": (["--data.size", "4"], "has size=8, but the pictures have size=4"),
    "K of the kernel": (
        ["--process.transition.num_states", "16"],
        "num_states is 16, but the data has 17 symbols",
    ),
    "K of the network": (
        ["--network.num_states", "16"],
        "PixelLogits of 16 levels needs 16 for each channel",
    ),
    "colour": (["--network.network.in_channels", "3"], "in_channels is 3"),
    "a mask that is not shown": (MASKED, "one more that tells the mask: set it to 2"),
    "labels": (["--data.labels", "false"], "network.num_classes is 10, but the data gives no labels"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_bad_config_is_one_line_and_touches_nothing(case, config, tmp_path, capsys):
    options, reason = BAD_CONFIGS[case]
    assert reason in refusal(capsys, "train", "--config", config, "--output", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_levels_are_not_for_gaussian_noise(config, tmp_path, capsys):
    pytest.importorskip("d3pm.gaussian")
    options = [
        "--process",
        "GaussianDiffusion",
        "--process.schedule",
        "CosineSchedule",
        "--process.num_steps",
        "9",
    ]
    line = refusal(capsys, "train", "--config", config, "--output", tmp_path / "run", *options)
    assert "the data are symbols: take a DiscreteDiffusion" in line


# sample


@pytest.mark.parametrize("kind", ["run", "masked"])
def test_pictures_are_what_the_model_draws(kind, request, tmp_path, capsys):
    run = request.getfixturevalue(kind)
    options = ["--num", 5, "--steps", 3, "--seed", 4, "--output", tmp_path / "sheet.png"]
    output(capsys, "sample", run, *options, "--each", tmp_path / "each", "--strip", tmp_path / "strip.png")
    model, states = DiffusionModel.from_pretrained(run).eval(), []
    x = model.sample(5, steps=3, seed=4, labels=torch.arange(5), watch=lambda s, x: states.append(x))
    drawn = model.codec.decode(x)
    singles = [np.asarray(Image.open(file)) for file in sorted((tmp_path / "each").iterdir())]
    assert all((one == np.asarray(picture)).all() for one, picture in zip(singles, drawn, strict=True))
    assert (np.asarray(Image.open(tmp_path / "sheet.png")) == np.asarray(grid(drawn))).all()
    strip = np.asarray(Image.open(tmp_path / "strip.png"))
    columns = [np.asarray(grid(model.codec.decode(x), columns=1)) for x in states]
    for k, column in enumerate(columns):
        assert (strip[:, k * (64 + GAP) : (k + 1) * (64 + GAP) + GAP] == column).all()


def test_what_is_masked_is_grey_on_the_way_and_nothing_is_at_the_end(masked, tmp_path, capsys):
    output(capsys, "sample", masked, "--num", 4, "--steps", 6, "--strip", tmp_path / "s.png")
    model, states = DiffusionModel.from_pretrained(masked).eval(), []
    model.sample(4, steps=6, seed=0, labels=torch.arange(4), watch=lambda s, x: states.append(x))
    shown = [np.stack([np.asarray(p) for p in model.codec.decode(x)]) for x in states]
    for x, picture in zip(states, shown, strict=True):
        assert (picture[(x == 17).numpy()[:, 0]] == 128).all()
    assert (states[0] == 17).any()
    assert not (states[-1] == 17).any()


def test_classes_and_guidance(run, tmp_path, capsys, monkeypatch):
    calls = []

    def batches(self, n, **options):
        calls.append(options)
        yield Samples(torch.zeros(n, *self.shape, dtype=torch.int64), torch.ones(n), 1)

    monkeypatch.setattr(DiffusionModel, "batches", batches)
    options = ["--num", 3, "--output", tmp_path / "x.png", "--overwrite"]
    output(capsys, "sample", run, *options, "--label", "4,2")
    output(capsys, "sample", run, *options, "--label", "3", "--guidance", 2.5)
    assert calls[0]["labels"].tolist() == [4, 2, 4]
    assert isinstance(calls[1]["network"], ClassifierFreeGuidance)
    assert calls[1]["network"].channels is None  # logits of all states are guided


def test_guided_samples_are_drawn(run, tmp_path, capsys):
    sheets = []
    for scale in (1, 9):
        options = ["--num", 4, "--label", 3, "--guidance", scale, "--output", tmp_path / f"{scale}.png"]
        output(capsys, "sample", run, *options)
        sheets.append((tmp_path / f"{scale}.png").read_bytes())
    assert sheets[0] != sheets[1]


@pytest.fixture(scope="module")
def classifier(config):
    network = part(
        "d3pm.networks.classifier.ImageClassifier", size=8, in_channels=1, num_classes=10, channels=[8]
    )
    (config.parent / "network.yaml").write_text(yaml.safe_dump(network))
    options = ["--network", str(config.parent / "network.yaml")]
    return train(config, "classifier", *options, "--objective", "d3pm.classification.Classification")


def test_a_classifier_guides_states(run, masked, classifier, tmp_path, capsys):
    sheets = []
    for name, options in {
        "free": ["--label", "none"],
        "zero": ["--classifier", classifier, "--classifier-scale", 0],
        "much": ["--classifier", classifier, "--classifier-scale", 1e4, "--label", "1,2,3"],
    }.items():
        common = ["--num", 3, "--steps", 3, "--batch-size", 2, "--output", tmp_path / f"{name}.png"]
        output(capsys, "sample", run, *common, *options)
        sheets.append((tmp_path / f"{name}.png").read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]
    assert "was trained on other noise" in refusal(capsys, "sample", masked, "--classifier", classifier)
    line = refusal(capsys, "sample", run, "--classifier", classifier, "--sampler", "Tweedie")
    assert "--classifier guides ancestral steps, where the process is one of states" in line


def test_a_model_without_label_drop_is_not_guided(config, capsys):
    run = train(config, "all-labels", "--network.network.label_drop", "0")
    assert "label_drop is 0" in refusal(capsys, "sample", run, "--label", "3", "--guidance", 2)
    options = ["--num", 1, "--label", "3", "--output", config.parent / "unguided.png"]
    assert "1 pictures" in output(capsys, "sample", run, *options)


GAUSSIAN_ONLY = "and the process is a DiscreteDiffusion"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--walk", "walk.gif"], "--walk is about Gaussian noise, " + GAUSSIAN_ONLY),
        (["--sde", "euler"], "--sde euler is about Gaussian noise, " + GAUSSIAN_ONLY),
        (["--classifier", "nowhere"], "nowhere does not exist"),
        (["--sampler", "DDIM"], "DDIM needs a GaussianDiffusion, " + GAUSSIAN_ONLY),
        (["--sampler", "DPMSolver"], "DPMSolver needs a GaussianDiffusion, " + GAUSSIAN_ONLY),
        (["--sampler", "Heun"], "Heun needs a GaussianDiffusion, " + GAUSSIAN_ONLY),
        (["--temperature", "0"], "temperature is 0"),
        (["--label", "10"], "--label 10 is no class"),
        (["--steps", "13"], "steps is 13"),
    ],
)
def test_what_sample_refuses(run, tmp_path, capsys, options, reason, monkeypatch):
    if "--sampler" in options:
        pytest.importorskip("d3pm.gaussian")
    monkeypatch.chdir(tmp_path)
    assert reason in refusal(capsys, "sample", run, *options)
    assert not any(tmp_path.iterdir())


# evaluate


@pytest.mark.parametrize("kind", ["run", "masked"])
def test_the_table_adds_up_to_the_bound(kind, request, tmp_path, capsys):
    run = request.getfixturevalue(kind)
    files = ["--table", tmp_path / "t.csv", "--plot", tmp_path / "t.png"]
    report = json.loads(output(capsys, "evaluate", run, "--num-examples", 8, "--json", *files))
    rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader((tmp_path / "t.csv").open())]
    assert [row["t"] for row in rows] == list(range(1, 13))
    bits = sum(row["bits_per_dim"] for row in rows) + report["prior"]
    assert bits == pytest.approx(report["bits_per_dim"], rel=1e-4)
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_pictures_of_floats_are_another_code(run, capsys):
    options = ["--data", "d3pm.data.ImageData", "--data.labels", "true"]
    assert "data: its code" in refusal(capsys, "evaluate", run, *options)
