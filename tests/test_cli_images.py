"""The command line on pictures: the same verbs, on one tiny run of the digits inside scikit-learn."""

import csv
import json
import math

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from test_cli import output, refusal

pytest.importorskip("d3pm.gaussian", reason="the Gaussian wing is not there")

from d3pm.cli import main
from d3pm.cli.forward import prior_bits
from d3pm.cli.gallery import Pictures
from d3pm.cli.pictures import GAP, grid
from d3pm.cli.schedule import schedules
from d3pm.gaussian.ddim import DDIM
from d3pm.guidance import ClassifierFreeGuidance
from d3pm.model import DiffusionModel
from d3pm.sampling import Ancestral, Samples

GAUSSIAN = {"schedule": {"class_path": "d3pm.schedules.CosineSchedule"}, "num_steps": 12, "levels": 17}
UNET = {"size": 8, "in_channels": 1, "channels": [8], "attention_at": [], "layers": 1, "num_classes": 10}
CLASSIFIER = {"size": 8, "in_channels": 1, "num_classes": 10, "channels": [8]}
TRAINING = {
    "max_steps": 3,
    "batch_size": 16,
    "eval_examples": 4,
    "eval_times": 2,
    "log_every": 1,
    "report_to": [],
}


def part(path, **arguments):
    return {"class_path": path, "init_args": arguments}


def write(folder, name, network, objective, **training):
    config = {
        "data": part("d3pm.data.ImageData", source="digits", labels=True),
        "process": part("d3pm.gaussian.GaussianDiffusion", **GAUSSIAN),
        "network": network,
        "objective": part(objective),
        "training": TRAINING | training,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder / f"{name}.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def config(folder):
    return write(folder, "digits", part("d3pm.networks.UNetDenoiser", **UNET), "d3pm.gaussian.SimpleError")


@pytest.fixture(scope="module")
def run(config):
    assert main(["train", "--config", str(config), "--output", str(config.parent / "run")]) == 0
    return config.parent / "run"


@pytest.fixture(scope="module")
def classifier(folder):
    network = part("d3pm.networks.classifier.ImageClassifier", **CLASSIFIER)
    config = write(folder, "classifier", network, "d3pm.classification.Classification")
    assert main(["train", "--config", str(config), "--output", str(folder / "classifier")]) == 0
    return folder / "classifier"


@pytest.fixture
def calls(monkeypatch):
    """What the model is asked to sample, and nothing drawn."""
    seen = []

    def batches(self, n, **options):
        seen.append(options)
        yield Samples(torch.zeros(n, *self.shape), torch.ones(n), 1)

    monkeypatch.setattr(DiffusionModel, "batches", batches)
    return seen


# train


def test_a_run_of_pictures_ends_with_bits_per_dim_and_a_sheet_of_samples(config, tmp_path, capsys):
    shown = output(capsys, "train", "--config", config, "--output", tmp_path / "run")
    assert "bits/dim" in shown
    assert "unigram entropy" in shown
    assert f"{tmp_path / 'run' / 'samples.png'}: {Pictures.few} pictures" in shown
    with Image.open(tmp_path / "run" / "samples.png") as sheet:
        assert sheet.size == (GAP + 4 * (64 + GAP),) * 2


def test_a_classifier_ends_with_its_accuracy_and_no_samples(classifier, capsys):
    report = json.loads(output(capsys, "evaluate", classifier, "--json"))
    assert 0 < report["accuracy"] < 1
    assert "unigram_entropy" not in report
    assert "accuracy_1_2" in report
    shown = output(capsys, "evaluate", classifier)
    assert f"{report['accuracy']:.4f} ± {report['standard_error']:.4f}" in shown
    assert not (classifier / "samples.png").exists()
    state = json.loads((classifier / "checkpoints" / "checkpoint-3" / "trainer_state.json").read_text())
    assert all("examples_per_second" in entry for entry in state["log_history"] if "loss" in entry)


def test_labels_do_not_upset_the_accumulation_of_gradients(config, tmp_path):
    """A trainer that counts labels would add the halves' mean losses up instead of averaging them."""
    losses = []
    for micro in ("16", "4"):
        options = ["--training.micro_batch_size", micro, "--training.learning_rate", "1e-9"]
        assert main(["train", "--config", str(config), "--output", str(tmp_path / micro), *options]) == 0
        state = json.loads((tmp_path / micro / "checkpoints/checkpoint-3/trainer_state.json").read_text())
        losses.append(sum(entry.get("loss", 0) for entry in state["log_history"]) / 3)
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


BAD_CONFIGS = {
    "beta above one": (
        ["--process.schedule=LinearSchedule"],
        "LinearSchedule at num_steps=12",
    ),
    "no noise to predict": (
        ["--process.schedule=ZeroTerminalSNR", "--process.schedule.base=CosineSchedule"],
        "prediction is 'eps'",
    ),
    "levels": (["--process.levels=256"], "process.levels is 256"),
    "size": (["--network.size=16"], "size"),
    "channels": (["--network.in_channels=3"], "in_channels"),
    "variance channels": (["--process.variance=learned_range"], "out_channels"),
    "too few classes": (["--network.num_classes=5"], "network.num_classes is 5, but the data has 10"),
    "labels in vain": (["--network.num_classes=null"], "data.labels to false"),
    "no labels": (["--data.labels=false"], "network.num_classes is 10, but the data gives no labels"),
    "no such prediction": (["--process.prediction=noise"], "prediction"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_bad_config_is_one_line_and_touches_nothing(case, config, tmp_path, capsys):
    options, reason = BAD_CONFIGS[case]
    assert reason in refusal(capsys, "train", "--config", config, "--output", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


# sample


def test_pictures_are_what_the_model_draws(run, tmp_path, capsys):
    options = ["--num", 5, "--steps", 3, "--seed", 4, "--output", tmp_path / "sheet.png"]
    output(capsys, "sample", run, *options, "--each", tmp_path / "each", "--strip", tmp_path / "strip.png")
    model = DiffusionModel.from_pretrained(run).eval()
    drawn = model.codec.decode(model.sample(5, steps=3, seed=4, labels=torch.arange(5)))
    singles = [np.asarray(Image.open(file)) for file in sorted((tmp_path / "each").iterdir())]
    assert all((one == np.asarray(picture)).all() for one, picture in zip(singles, drawn, strict=True))
    assert (np.asarray(Image.open(tmp_path / "sheet.png")) == np.asarray(grid(drawn))).all()
    strip = np.asarray(Image.open(tmp_path / "strip.png"))
    assert strip.shape == (GAP + 5 * (64 + GAP), GAP + 3 * (64 + GAP))
    assert (strip[:, 2 * (64 + GAP) :] == np.asarray(grid(drawn, columns=1))).all()


def test_a_sheet_without_a_name_lies_in_the_run_and_overwrites_nothing(run, capsys):
    before = {file: file.read_bytes() for file in run.glob("samples*.png")}
    shown = output(capsys, "sample", run, "--num", 2, "--steps", 1)
    (new,) = set(run.glob("samples*.png")) - before.keys()
    assert str(new) in shown
    assert all(file.read_bytes() == content for file, content in before.items())


def test_a_walk_goes_from_one_latent_to_another_and_back(run, tmp_path, capsys, monkeypatch):
    film = []
    monkeypatch.setattr("d3pm.cli.gallery.save_animation", lambda frames, file: film.extend(frames))
    options = ["--num", 1, "--steps", 2, "--seed", 3, "--label", 7, "--walk", tmp_path / "w.gif"]
    output(capsys, "sample", run, *options)
    model = DiffusionModel.from_pretrained(run).eval()
    generator = torch.Generator().manual_seed(3)
    for frame in (0, 23):  # the ends of the way
        x_T = model.process.prior((1, 1, 8, 8)).sample(generator)
        x = model.sample(1, steps=2, sampler=DDIM(), x_T=x_T, labels=torch.tensor([7]))
        assert (np.asarray(film[frame]) == np.asarray(grid(model.codec.decode(x)))).all()
    assert len(film) == 24 + 22
    assert film[24:] == film[22:0:-1]


def test_classes_go_round_and_guidance_is_a_wrapper(run, tmp_path, capsys, calls):
    options = ["--num", 3, "--output", tmp_path / "x.png", "--overwrite"]
    output(capsys, "sample", run, *options, "--label", "4,2")
    output(capsys, "sample", run, *options, "--label", "none")
    output(capsys, "sample", run, *options, "--label", "3", "--guidance", 2.5, "--rescale", 0.7)
    assert calls[0]["labels"].tolist() == [4, 2, 4]
    assert "labels" not in calls[1]
    guide = calls[2]["network"]
    assert isinstance(guide, ClassifierFreeGuidance)
    assert (guide.scale, guide.rescale, guide.null, guide.channels) == (2.5, 0.7, {"labels": None}, 1)


def test_steps_grids_and_samplers_go_by_name(run, tmp_path, capsys, calls):
    options = ["--num", 1, "--output", tmp_path / "x.png", "--overwrite"]
    output(capsys, "sample", run, *options, "--sampler", "DDIM", "--sampler.eta", 0.5, "--grid", "leading")
    output(capsys, "sample", run, *options, "--steps", "[12, 5, 0]", "--sampler", "d3pm.sampling.Ancestral")
    assert calls[0]["sampler"] == DDIM(0.5)
    assert calls[0]["grid"](12, 3) == [9, 5, 1, 0]
    assert (calls[1]["steps"], calls[1]["sampler"]) == ([12, 5, 0], Ancestral())


@pytest.mark.parametrize("sampler", [[], ["--sampler", "DDIM"]], ids=["ancestral", "DDIM"])
def test_a_classifier_of_scale_0_changes_nothing_and_of_a_large_one_does(
    sampler, run, classifier, tmp_path, capsys
):
    sheets = []
    for name, options in {
        "free": ["--label", "none"],
        "zero": ["--classifier", classifier, "--classifier-scale", 0],
        "much": ["--classifier", classifier, "--classifier-scale", 1e7],
    }.items():
        common = ["--num", 3, "--steps", 4, "--batch-size", 2, "--output", tmp_path / f"{name}.png"]
        output(capsys, "sample", run, *common, *options, *sampler)
        sheets.append((tmp_path / f"{name}.png").read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


@pytest.mark.parametrize("sampler", [[], ["--sampler", "Ancestral"]], ids=["default", "by name"])
def test_each_batch_is_guided_to_its_own_classes(sampler, run, classifier, tmp_path, capsys, calls):
    output(
        capsys, "sample", run, "--num", 5, "--batch-size", 2, "--classifier", classifier, "--label", "1,2,3",
        "--output", tmp_path / "x.png", *sampler,
    )  # fmt: skip
    assert [options["sampler"].labels.tolist() for options in calls] == [[1, 2], [3, 1], [2]]
    first, *others = (options["generator"].initial_seed() for options in calls)
    assert first == 0  # that of the command; each of the other batches has its own
    assert len({first, *others}) == 3


@pytest.mark.parametrize("method", ["euler", "pc", "ode"])
def test_continuous_time_repeats_itself(method, run, tmp_path, capsys):
    sheets = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        steps = [] if method == "ode" else ["--steps", 3]
        options = ["--num", 3, "--sde", method, "--seed", seed, "--output", tmp_path / f"{name}.png", *steps]
        output(capsys, "sample", run, *options)
        sheets.append((tmp_path / f"{name}.png").read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--prompt", "a"], "--prompt is for text, but this model draws pictures"),
        (["--temperature", "0.5"], "--temperature is 0.5, but it sharpens beliefs over states"),
        (["--top-p", "0.5"], "--top_p is 0.5, but it sharpens beliefs over states"),
        (["--watch"], "--watch is for text"),
        (["--label", "10"], "--label 10 is no class: give one of 0 … 9"),
        (["--label", "three"], "--label three is no class"),
        (["--steps", "13"], "steps is 13"),
        (["--steps", "[3, 5, 0]"], "give a number of steps, or falling times"),
        (["--grid", "leadin"], "did you mean leading"),
        (["--sampler", "DDIN"], "there is no class DDIN"),
        (["--sampler", "DDIM", "--sampler.eta", "2"], "eta is 2"),
        (["--guidance", "2", "--label", "none"], "--guidance is 2.0, but there is no class"),
        (["--rescale", "0.5"], "--rescale is 0.5"),
        (["--guidance", "2", "--rescale", "3"], "rescale is 3"),
        (["--classifier-scale", "2"], "no --classifier is given"),
        (["--classifier", "nowhere"], "nowhere does not exist"),
        (["--sde", "ode", "--grid", "cosine"], "--sde and --grid"),
        (["--sde", "ode", "--sampler", "DDIM"], "--sde and --sampler"),
        (["--sde", "heun"], "sde"),
        (["--output", "sheet.jpg"], "end the name in .png"),
        (["--walk", "walk.png"], "end the name in .gif"),
        (["--strip", "/no/folder/s.png"], "--strip /no/folder/s.png: its folder does not exist"),
    ],
)
def test_what_sample_refuses(run, capsys, options, reason):
    assert reason in refusal(capsys, "sample", run, *options)


def test_files_that_exist_are_replaced_only_when_asked(run, tmp_path, capsys, calls):
    (tmp_path / "old.png").write_text("old")
    (tmp_path / "each").mkdir()
    (tmp_path / "each" / "0001.png").write_text("old")
    for option, target in (("--output", "old.png"), ("--strip", "old.png"), ("--each", "each")):
        assert "--overwrite" in refusal(capsys, "sample", run, option, tmp_path / target)
    assert (tmp_path / "old.png").read_text() == "old"
    assert not calls
    output(
        capsys, "sample", run, "--output", tmp_path / "old.png", "--each", tmp_path / "each", "--overwrite"
    )
    assert (tmp_path / "old.png").read_bytes().startswith(b"\x89PNG")


def test_a_classifier_must_be_one_and_fit(run, classifier, config, folder, tmp_path, capsys):
    assert "draws nothing" in refusal(capsys, "sample", classifier)
    assert "is no classifier" in refusal(capsys, "sample", run, "--classifier", run)
    line = refusal(capsys, "sample", run, "--classifier", classifier, "--guidance", "2")
    assert "both guide" in line
    other = folder / "other"
    if not other.exists():
        options = [
            "--config",
            folder / "classifier.yaml",
            "--process.schedule=SigmoidSchedule",
            "--output",
            other,
        ]
        output(capsys, "train", *options, "--training.max_steps", 1)
    assert "was trained on other noise" in refusal(capsys, "sample", run, "--classifier", other)


# evaluate


def test_the_table_adds_up_to_the_bound(run, tmp_path, capsys):
    files = ["--table", tmp_path / "t.csv", "--plot", tmp_path / "t.png"]
    report = json.loads(output(capsys, "evaluate", run, "--num-examples", 8, "--json", *files))
    rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader((tmp_path / "t.csv").open())]
    assert [row["t"] for row in rows] == list(range(1, 13))
    assert report["num_times"] == 11
    assert sum(row["bits_per_dim"] for row in rows) + report["prior"] == pytest.approx(
        report["bits_per_dim"], 1e-4
    )
    assert rows[0]["rate"] + rows[0]["bits_per_dim"] == pytest.approx(report["bits_per_dim"], rel=1e-4)
    assert rows[-1]["rate"] == pytest.approx(report["prior"], rel=1e-4)
    assert rows[0]["rmse"] < rows[-1]["rmse"]  # the less noise, the nearer the guess
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    exact = json.loads(output(capsys, "evaluate", run, "--num-examples", 8, "--json", "--num-times", 12))
    assert exact == report


def test_the_entropy_is_that_of_the_grey_levels(run, capsys):
    from sklearn.datasets import load_digits

    report = json.loads(output(capsys, "evaluate", run, "--split", "train", "--num-examples", 2, "--json"))
    p = np.bincount(load_digits().images.astype(int).ravel()) / load_digits().images.size
    assert report["unigram_entropy"] == pytest.approx(-(p * np.log2(p)).sum(), abs=0.02)


@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--table", "t.txt"], "end the name in .csv"), (["--plot", "/no/t.png"], "/no/t.png")],
)
def test_what_evaluate_refuses(run, capsys, options, reason):
    assert reason in refusal(capsys, "evaluate", run, *options)


def test_pictures_of_another_size_do_not_fit(run, capsys):
    options = ["--data", "d3pm.data.ImageData", "--data.size", "4"]
    assert "17 symbols in shape (1, 4, 4), but the model has 17 in (1, 8, 8)" in refusal(
        capsys, "evaluate", run, *options
    )


def test_a_classifier_has_no_table(classifier, tmp_path, capsys):
    assert "is a classifier" in refusal(capsys, "evaluate", classifier, "--table", tmp_path / "t.csv")


# schedule


def test_the_schedule_verb_tells_the_published_end(capsys):
    shown = output(capsys, "schedule", "linear")
    assert "alpha_bar_T = 4.036e-05" in shown
    assert "2.911e-05 bits/dim" in shown
    assert "≈ 0: sampling starts where training ends" in shown
    assert "no beta is clipped" in shown
    assert "1 beta clipped to 0.999, at t = 1000" in output(capsys, "schedule", "cosine")


def test_a_schedule_that_leaves_a_signal_is_told(capsys):
    """Unscaled betas of a thousand steps over a hundred: what the prior then costs is no rounding error."""
    shown = output(capsys, "schedule", "linear", "--num-steps", 100, "--first", 1e-5, "--last", 2e-3)
    assert "NOT ≈ 0" in shown
    assert "3.260e-01 bits/dim" in shown


@pytest.mark.parametrize("name", ["zero-terminal-snr", "d3pm.schedules.PolynomialSchedule"])
def test_a_schedule_is_drawn_with_its_forward_process(name, tmp_path, capsys):
    more = ["--base", "LinearSchedule"] if name.startswith("zero") else []
    output(capsys, "schedule", name, "--num-steps", 30, *more, "--plot", tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_short_names_are_those_of_the_classes():
    assert {"linear", "cosine", "unsquared_cosine", "sigmoid", "zero_terminal_snr"} <= schedules().keys()


@pytest.mark.parametrize("mean_square", [0.0, 0.4, 1.0])
def test_the_priors_cost_is_the_divergence(mean_square):
    from torch.distributions import Normal, kl_divergence

    mean = torch.tensor(0.3 * mean_square, dtype=torch.float64).sqrt()
    nats = kl_divergence(Normal(mean, math.sqrt(0.7)), Normal(0.0, 1.0))
    assert float(prior_bits(torch.tensor(0.3), mean_square)) == pytest.approx(
        float(nats) / math.log(2), rel=1e-6
    )


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["cosin"], "did you mean cosine"),
        (["linear", "--num-steps", "20"], "take at least 21 steps"),
        (["linear", "--num-steps", "0"], "num_steps is 0"),
        (["cosine", "--max-beta", "2"], "max_beta is 2"),
        (["cosine", "--plot", "x.doc"], "x.doc"),
        (["cosine", "--source", "/no/pictures"], "/no/pictures"),
        ([], "schedule"),
    ],
)
def test_what_schedule_refuses(capsys, argv, reason):
    assert reason in refusal(capsys, "schedule", *argv)
