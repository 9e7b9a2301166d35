"""``d3pm evaluate RUN --samples N`` on texts and pictures: what is judged, beside what, and what it costs."""

import csv
import json
import math

import pytest
import torch
import yaml
from test_cli import output, refusal
from tiny import train, write_config

from d3pm.cli import main
from d3pm.cli.experiment import load_data
from d3pm.cli.quality import classes_of, training_texts, unigram_rows
from d3pm.data import ImageData, PaddedDocuments, TextCodec
from d3pm.data.unigram import frequencies
from d3pm.evaluation import evenly, text_quality
from d3pm.model import DiffusionModel

QUICK = ["--num-examples", 0]
UNET = {
    "size": 8,
    "in_channels": 1,
    "out_channels": 17,
    "channels": [8],
    "attention_at": [],
    "layers": 1,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A run on 2,000 characters: 6 test blocks of 16, so that 3 are put beside at most."""
    folder = tmp_path_factory.mktemp("text")
    assert train(write_config(folder, max_steps=1), folder / "run") == 0
    return folder / "run"


def train_digits(folder, name, network, objective):
    training = {"max_steps": 1, "batch_size": 16, "eval_examples": 2, "eval_times": 2, "report_to": []}
    config = {
        "data": {
            "class_path": "d3pm.data.ImageData",
            "init_args": {"source": "digits", "labels": name != "run", "discrete": name == "run"},
        },
        "process": {
            "class_path": "d3pm.discrete.process.DiscreteDiffusion",
            "init_args": {
                "transition": {
                    "class_path": "d3pm.transitions.UniformTransition",
                    "init_args": {"num_states": 17, "num_steps": 8},
                }
            },
        }
        if name == "run"
        else {
            "class_path": "d3pm.gaussian.GaussianDiffusion",
            "init_args": {
                "schedule": {"class_path": "d3pm.schedules.CosineSchedule"},
                "num_steps": 8,
                "levels": 17,
            },
        },
        "network": network,
        "objective": {"class_path": objective},
        "training": training,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    assert train(folder / f"{name}.yaml", folder / name) == 0
    return folder / name


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    network = {
        "class_path": "d3pm.networks.PixelLogits",
        "init_args": {
            "num_states": 17,
            "network": {"class_path": "d3pm.networks.UNetDenoiser", "init_args": UNET},
        },
    }
    folder = tmp_path_factory.mktemp("pictures")
    return train_digits(folder, "run", network, "d3pm.objectives.VariationalBound")


@pytest.fixture(scope="module")
def classifier(pictures):
    pytest.importorskip("d3pm.gaussian", reason="the Gaussian wing is not there")
    network = {
        "class_path": "d3pm.networks.ImageClassifier",
        "init_args": {"size": 8, "in_channels": 1, "num_classes": 10, "channels": [8]},
    }
    return train_digits(pictures.parent, "judge", network, "d3pm.classification.Classification")


# Texts


def test_texts_are_put_beside_unigram_and_real_ones(text, capsys):
    shown = output(capsys, "evaluate", text, "--samples", 3, "--steps", 4)
    assert "bound (their sum)" in shown
    assert "4 steps, 3 texts of each kind, against 1,792 training characters" in shown
    assert "48 of the test split (divergence):" in shown
    head = next(line for line in shown.splitlines() if "unigram" in line and "real" in line)
    assert head.split() == ["samples", "unigram", "real"]
    for name in ("n-gram bits/char", "known words", "divergence of 4-grams", "calls a sample"):
        (line,) = (line for line in shown.splitlines() if line.startswith(f"  {name} "))
        assert len(line.removeprefix(f"  {name}").split()) == 3


def test_the_numbers_are_those_of_the_samples_that_d3pm_sample_draws(text, tmp_path, capsys):
    found = json.loads(output(capsys, "evaluate", text, "--samples", 3, "--steps", 4, "--json", *QUICK))
    assert "bits_per_dim" not in found
    output(capsys, "sample", text, "--num", 3, "--steps", 4, "--output", tmp_path / "s.txt")
    data = load_data(text / "config.yaml")
    samples = (tmp_path / "s.txt").read_text().split("\n")[:-1]
    real = data.codec.decode(torch.stack([item["x0"] for item in data.split("test")]))
    expected = text_quality(samples, real, training_texts(data.split("train"), data.codec))
    assert _plain(found["text"]["samples"]) == _plain(expected.samples.as_dict())
    assert _plain(found["text"]["real"]) == _plain(expected.real.as_dict())
    (row,) = found["curve"]
    assert row.items() >= found["text"]["samples"].items()


def _plain(numbers):
    return {name: None if value is None or math.isnan(value) else value for name, value in numbers.items()}


def test_a_curve_has_a_row_for_each_number_of_steps_and_adds_up(text, tmp_path, capsys):
    files = ["--samples-table", tmp_path / "q.csv", "--curve", tmp_path / "q.png"]
    options = ["--samples", 3, *QUICK]
    shown = output(capsys, "evaluate", text, *options, "--steps", "2,5,20", *files)
    assert [name for name in ("2 steps", "5 steps", "20 steps") if name in shown] != []
    rows = list(csv.DictReader((tmp_path / "q.csv").open()))
    assert [row["samples"] for row in rows] == ["samples"] * 3 + ["unigram", "real"]
    assert [row["steps"] for row in rows] == ["2", "5", "20", "", ""]
    for row in rows[:3]:
        assert 1 <= float(row["calls"]) <= int(row["steps"])
        assert float(row["seconds"]) > 0
    assert float(rows[0]["calls"]) < float(rows[2]["calls"])
    alone = json.loads(output(capsys, "evaluate", text, *options, "--steps", 5, "--json"))["curve"][0]
    for name, value in alone.items():
        if value is not None and name != "seconds":
            assert float(rows[1][name]) == pytest.approx(value, rel=1e-5)
    assert (tmp_path / "q.png").read_bytes().startswith(b"\x89PNG")
    assert "exists" in refusal(capsys, "evaluate", text, *options, *files)


def test_without_steps_the_sampler_takes_its_own(text, capsys):
    found = json.loads(output(capsys, "evaluate", text, "--samples", 2, "--json", *QUICK))
    assert found["curve"][0]["steps"] == 20


def test_samplers_and_grids_go_by_name(text, capsys, monkeypatch):
    seen = []
    batches = DiffusionModel.batches

    def spy(self, n, **options):
        seen.append(options)
        return batches(self, n, **options)

    monkeypatch.setattr(DiffusionModel, "batches", spy)
    named = ["--sampler", "d3pm.sampling.Ancestral", "--grid", "cosine", "--seed", 3]
    output(capsys, "evaluate", text, "--samples", 2, "--steps", "2,3", *QUICK, *named)
    assert [options["steps"] for options in seen] == [2, 3]
    assert {type(options["sampler"]).__name__ for options in seen} == {"Ancestral"}
    assert all(options["seed"] == 3 and options["grid"](20, 2)[0] == 20 for options in seen)


def test_no_more_texts_are_drawn_than_there_are_to_put_beside(text, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(text), "--samples", "50", "--steps", "2", "--json", *map(str, QUICK)]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["text"]["samples"]["num_texts"] == 3
    assert "there are 3 test texts" in captured.err


def test_padding_is_no_text():
    codec = TextCodec.characters()
    documents = ["a cat", "no", "dogs and more"]
    tokens = codec.encode("".join(documents)).numpy()
    ends = torch.tensor([len(d) for d in documents]).cumsum(0).numpy()
    rows = PaddedDocuments(tokens, ends, 8)
    assert sorted(training_texts(rows, codec)) == ["a cat", "dogs and", "no"]
    assert not (unigram_rows(rows, 50, 4, 0) == codec.encode("z")).any()


def test_unigram_rows_follow_the_frequencies_of_training(text):
    from scipy.stats import chisquare

    train = load_data(text / "config.yaml").split("train")
    drawn = unigram_rows(train, 1000, 16, seed=0)
    law = frequencies(train, 27)
    some = law > 0
    observed = torch.bincount(drawn.flatten(), minlength=27)
    assert observed[~some].sum() == 0
    assert chisquare(observed[some], 16_000 * law[some]).pvalue > 1e-3


# Pictures


def test_pictures_are_compared_in_pixels_if_nobody_says_otherwise(pictures, capsys):
    shown = output(capsys, "evaluate", pictures, "--samples", 40, "--steps", 2, *QUICK)
    assert "40 pictures of each kind, against 1,437 training pictures in 32 features" in shown
    assert "pixel Fréchet distance" in shown
    assert "independent" in shown
    assert "classes" not in shown
    found = json.loads(
        output(capsys, "evaluate", pictures, "--samples", 40, "--steps", "1,2", "--json", *QUICK)
    )
    numbers = found["pictures"]
    assert numbers["real"]["frechet"] < numbers["independent"]["frechet"]
    assert [row["steps"] for row in found["curve"]] == [1, 2]
    assert found["curve"][1]["frechet"] == numbers["samples"]["frechet"]


def test_a_classifier_run_tells_features_and_classes(pictures, classifier, capsys):
    """The classifier reads floats and the model draws levels: both are pictures."""
    options = ["--samples", 20, "--steps", 1, "--features", classifier, "--json", *QUICK]
    numbers = json.loads(output(capsys, "evaluate", pictures, *options))["pictures"]
    assert numbers["distance"] == "classifier Fréchet distance"
    assert numbers["num_features"] == 8
    assert all(0 <= numbers[name]["label_variation"] <= 1 for name in ("samples", "independent", "real"))


def test_drawn_pictures_have_the_classes_of_the_real_ones_beside_them():
    data = ImageData("digits", labels=True)
    test, count = data.split("test"), 36
    found = classes_of(evenly(test, count))
    assert found == [int(test[(2 * i + 1) * 180 // (2 * count)]["labels"]) for i in range(count)]


# Refusals


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--steps", "8"], "--steps is 8, but only --samples are drawn in steps: give it too"),
        (["--grid", "cosine"], "--grid is cosine, but it is about --samples"),
        (["--sampler", "Ancestral"], "--sampler is d3pm.sampling.Ancestral, but it is about --samples"),
        (["--curve", "c.png"], "--curve is c.png, but it is about --samples"),
        (["--language-model", "gpt2"], "--language_model is gpt2, but it is about --samples"),
        (["--num-examples", "0"], "--num_examples is 0, which goes with --samples: give 1 or more, or"),
        (
            ["--samples", "2", "--steps", "8,16", "--sampler", "FirstHitting"],
            "--steps is 8,16, but FirstHitting makes as many network calls as it needs",
        ),
        (["--samples", "0"], "--samples is 0: give 1 or more"),
        (["--samples", "2", "--steps", "8,x"], "--steps is 8,x: give different whole numbers"),
        (["--samples", "2", "--steps", "8,8"], "--steps is 8,8: give different whole numbers"),
        (["--samples", "2", "--steps", "8,21"], "steps is 21"),
        (["--samples", "2", "--steps", "0"], "steps is 0"),
        (["--samples", "2", "--grid", "cosin"], "did you mean cosine"),
        (["--samples", "2", "--curve", "c.txt"], "--curve c.txt: end the name in .png"),
        (["--samples", "2", "--samples-table", "/no/q.csv"], "its folder does not exist"),
        (["--samples", "2", "--split", "train"], "--split is train: take test or validation"),
        (["--samples", "2", "--features", "pixels"], "--features is for pictures, but this model draws text"),
        (["--samples", "2", "--language-model", "/no/model"], "language model /no/model cannot be read"),
    ],
)
def test_what_is_refused_of_texts(text, capsys, monkeypatch, tmp_path, options, reason):
    monkeypatch.chdir(tmp_path)
    assert reason in refusal(capsys, "evaluate", text, *options)
    assert not list(tmp_path.iterdir())


def test_what_others_say_of_a_language_model_is_cut_between_words(text, tmp_path, capsys, monkeypatch):
    import transformers

    def fails(*args, **options):
        raise OSError("word " * 100)

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fails)
    line = refusal(capsys, "evaluate", text, "--samples", 2, "--language-model", tmp_path)
    assert "word word …): name a folder" in line


def test_what_is_refused_of_pictures(pictures, capsys):
    line = refusal(capsys, "evaluate", pictures, "--samples", 20, "--steps", 1)
    assert "--samples is 20: 20 pictures are too few for a covariance of 32 features: take 33 or more" in line
    line = refusal(capsys, "evaluate", pictures, "--samples", 40, "--features", pictures)
    assert f"--features {pictures} is no classifier" in line
    assert "nowhere" in refusal(capsys, "evaluate", pictures, "--samples", 40, "--features", "nowhere")
    line = refusal(capsys, "evaluate", pictures, "--samples", 40, "--language-model", "gpt2")
    assert "--language_model is for text, but this model draws pictures" in line


def test_a_classifier_draws_nothing(classifier, capsys):
    assert "is a classifier: leave it out" in refusal(capsys, "evaluate", classifier, "--samples", 40)
