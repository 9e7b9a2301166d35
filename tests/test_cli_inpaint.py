"""``d3pm sample --inpaint``: holes in pictures are filled and the rest stays, in both wings."""

import importlib.util

import numpy as np
import pytest
import yaml
from PIL import Image
from test_cli import output, refusal
from test_cli_levels import KERNEL, TRAINING, WITHIN, part

from d3pm.cli import main
from d3pm.cli.pictures import GAP
from d3pm.data.image_codec import requantize

NETWORK = {name: value for name, value in WITHIN.items() if name != "out_channels"} | {"num_classes": 10}
ABSORBING = {"num_states": 18, "num_steps": 12}
GAUSSIAN = {"schedule": part("d3pm.schedules.CosineSchedule"), "num_steps": 12, "levels": 17}


def of_levels(kernel, states, channels):
    within = part("d3pm.networks.UNetDenoiser", **NETWORK | {"in_channels": channels, "out_channels": 17})
    return {
        "data": part("d3pm.data.ImageData", source="digits", labels=True, discrete=True),
        "process": part("d3pm.discrete.process.DiscreteDiffusion", transition=kernel),
        "network": part("d3pm.networks.PixelLogits", network=within, num_states=states, num_levels=17),
        "objective": part("d3pm.objectives.VariationalBound"),
    }


CONFIGS = {
    "absorbing": of_levels(part("d3pm.transitions.AbsorbingTransition", **ABSORBING), 18, 2),
    "ordinal": of_levels(part("d3pm.transitions.DiscretizedGaussianTransition", **KERNEL), 17, 1),
    "gaussian": {
        "data": part("d3pm.data.ImageData", source="digits", labels=True),
        "process": part("d3pm.gaussian.GaussianDiffusion", **GAUSSIAN),
        "network": part("d3pm.networks.UNetDenoiser", **NETWORK),
        "objective": part("d3pm.gaussian.SimpleError"),
    },
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder, trained = tmp_path_factory.mktemp("inpaint"), {}

    def run(kind):
        if kind == "gaussian" and not importlib.util.find_spec("d3pm.gaussian"):
            pytest.skip("the Gaussian wing is not there")
        if kind not in trained:
            (folder / f"{kind}.yaml").write_text(yaml.safe_dump(CONFIGS[kind] | {"training": TRAINING}))
            config, trained[kind] = folder / f"{kind}.yaml", folder / kind
            assert main(["train", "--config", str(config), "--output", str(trained[kind])]) == 0
        return trained[kind]

    return run


@pytest.fixture
def picture(tmp_path):
    """A picture of random levels, with its right half to be filled; and the same as one with a mask."""
    levels = requantize(np.random.default_rng(0).integers(0, 17, (8, 8)), 17, 256)
    hole = np.zeros((8, 8), dtype=bool)
    hole[:, 4:] = True
    Image.fromarray(levels).save(tmp_path / "whole.png")
    Image.fromarray(np.stack([levels, np.where(hole, 0, 255).astype(np.uint8)], -1), "LA").save(
        tmp_path / "torn.png"
    )
    Image.fromarray(np.where(hole, 255, 0).astype(np.uint8)).save(tmp_path / "mask.png")
    return levels, hole


def read(folder):
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.iterdir())])


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_hole_is_filled_in_several_ways_and_the_rest_stays(kind, runs, picture, tmp_path, capsys):
    levels, hole = picture
    ways = {
        "mask": ["--inpaint", tmp_path / "whole.png", "--mask", tmp_path / "mask.png"],
        "alpha": ["--inpaint", tmp_path / "torn.png"],
    }
    for name, way in ways.items():
        output(capsys, "sample", runs(kind), *way, "--num", 3, "--steps", 4, "--each", tmp_path / name)
    drawn = read(tmp_path / "mask")
    assert drawn.shape == (3, 8, 8)
    assert (drawn[:, ~hole] == levels[~hole]).all()
    assert not (drawn[0, hole] == drawn[1, hole]).all()
    assert not (drawn[:, hole] == levels[hole]).all()
    assert (drawn == read(tmp_path / "alpha")).all()


def test_each_of_a_folder_of_pictures_is_a_row_of_the_sheet(runs, picture, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "folder" / name).write_bytes((tmp_path / "torn.png").read_bytes())
    options = ["--inpaint", tmp_path / "folder", "--num", 3, "--steps", 2, "--label", 7]
    options += ["--output", tmp_path / "filled.png", "--strip", tmp_path / "strip.png"]
    said = output(capsys, "sample", runs("absorbing"), *options)
    assert f"{tmp_path / 'filled.png'}: 6 pictures" in said
    with Image.open(tmp_path / "filled.png") as sheet:
        assert sheet.size == (GAP + 3 * (64 + GAP), GAP + 2 * (64 + GAP))


def test_only_what_is_masked_costs_calls(runs, picture, tmp_path, capsys):
    options = [
        "--inpaint",
        tmp_path / "torn.png",
        "--sampler",
        "FirstHitting",
        "--output",
        tmp_path / "x.png",
    ]
    assert main(["sample", str(runs("absorbing")), *map(str, options)]) == 0
    assert "4 samples: 32.0 network calls each" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--mask", "mask.png"], "--mask is mask.png, but there is nothing to fill: give --inpaint too"),
        (["--inpaint", "whole.png"], "--inpaint whole.png is transparent nowhere"),
        (
            ["--inpaint", "whole.png", "--mask", "black.png"],
            "--mask black.png is white nowhere: make it white where pixels are to be filled in",
        ),
        (
            ["--inpaint", "large.png", "--mask", "mask.png"],
            "large.png has 9 x 8 pixels, but the model draws 8 x 8",
        ),
        (["--inpaint", "whole.png", "--mask", "large.png"], "--mask large.png has 9 x 8 pixels"),
        (["--inpaint", "text.png"], "--inpaint text.png is no picture that can be read"),
        (["--inpaint", "nowhere.png"], "--inpaint nowhere.png: no such file: name a picture"),
        (["--inpaint", "empty"], "--inpaint empty is an empty folder"),
        (["--inpaint", "torn.png", "--walk", "w.gif"], "--inpaint fills pictures, and --walk"),
        (["--inpaint", "torn.png", "--sde", "ode"], "--inpaint holds pixels step by step"),
    ],
)
def test_what_is_refused(runs, picture, tmp_path, capsys, monkeypatch, options, reason):
    run = runs("absorbing")
    monkeypatch.chdir(tmp_path)
    Image.new("L", (9, 8)).save("large.png")
    Image.new("L", (8, 8)).save("black.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    assert reason in refusal(capsys, "sample", run, *options)
    assert sorted(tmp_path.iterdir()) == before
