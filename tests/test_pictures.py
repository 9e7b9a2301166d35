"""Many pictures in one, and where they are written."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from d3pm.cli.choices import find_grid, labels_of
from d3pm.cli.gallery import Moments, save_each
from d3pm.cli.pictures import GAP, enlarged, grid, save_animation, strip
from d3pm.cli.targets import check_empty, fresh
from d3pm.errors import ConfigError
from d3pm.grids import quadratic_grid

SIDE = 40  # not enlarged


def plain(value, mode="L"):
    return Image.new(mode, (SIDE, SIDE), (value,) * 3 if mode == "RGB" else value)


def tile(sheet, row, column):
    """The values of one tile; all others are the gaps."""
    step = SIDE + GAP
    return np.asarray(sheet)[GAP + row * step :, GAP + column * step :][:SIDE, :SIDE]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_grid_holds_every_picture_in_reading_order(mode):
    sheet = grid([plain(v, mode) for v in range(10, 60, 10)], columns=2)
    assert (sheet.mode, sheet.size) == (mode, (GAP + 2 * (SIDE + GAP), GAP + 3 * (SIDE + GAP)))
    for n, value in enumerate(range(10, 60, 10)):
        assert (tile(sheet, *divmod(n, 2)) == value).all()
    assert (tile(sheet, 2, 1) == 255).all()  # nothing is left for the last place
    assert (np.asarray(sheet)[:GAP] == 255).all()


def test_a_strip_has_a_row_for_each_sample_and_a_column_for_each_moment():
    moments = [[plain(10 * k + i) for i in range(2)] for k in range(3)]
    sheet = strip(moments)
    assert [[int(tile(sheet, i, k)[0, 0]) for k in range(3)] for i in range(2)] == [[0, 10, 20], [1, 11, 21]]


def test_small_pictures_are_enlarged_by_whole_pixels():
    small = Image.fromarray(np.array([[0, 100], [200, 255]], dtype=np.uint8))
    large = enlarged(small)
    assert large.size == (64, 64)
    assert (np.asarray(large)[::32, ::32] == np.asarray(small)).all()
    assert (np.asarray(large)[:32, 32:] == 100).all()
    assert enlarged(plain(1)).size == (SIDE, SIDE)


def test_an_animation_repeats_for_ever(tmp_path):
    save_animation([plain(v) for v in (0, 120, 240)], tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as film:
        assert film.info["loop"] == 0
        shown = [int(np.asarray(frame.convert("L"))[0, 0]) for frame in ImageSequence.Iterator(film)]
    assert shown == [0, 120, 240]


def test_single_pictures_keep_their_size_and_order(tmp_path):
    save_each([Image.new("L", (8, 8), v) for v in (1, 2)], tmp_path / "each")
    assert sorted(file.name for file in (tmp_path / "each").iterdir()) == ["0001.png", "0002.png"]
    with Image.open(tmp_path / "each" / "0002.png") as picture:
        assert picture.size == (8, 8)
        assert picture.getpixel((0, 0)) == 2


def test_a_name_that_was_not_asked_for_overwrites_nothing(tmp_path):
    for name in ("samples.png", "samples-2.png", "samples-3.png"):
        assert fresh(tmp_path, "samples", ".png") == tmp_path / name
        (tmp_path / name).touch()


def test_a_folder_must_be_empty_unless_told_otherwise(tmp_path):
    check_empty(tmp_path / "new", "--each", overwrite=False)
    check_empty(tmp_path, "--each", overwrite=False)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"--each .* is not empty.*--overwrite"):
        check_empty(tmp_path, "--each", overwrite=False)
    check_empty(tmp_path, "--each", overwrite=True)
    with pytest.raises(ConfigError, match="is a file"):
        check_empty(tmp_path / "thesis.tex", "--each", overwrite=True)
    with pytest.raises(ConfigError, match="there is no folder"):
        check_empty(tmp_path / "no" / "folder", "--each", overwrite=True)


@pytest.mark.parametrize(("steps", "seen"), [(10, [7, 4, 0]), (3, [2, 1, 0]), (2, [1, 0])])
def test_moments_are_even_and_end_with_the_sample(steps, seen):
    moments = Moments(steps, columns=3)
    for batch in (1, 2):
        for s in range(steps - 1, -1, -1):
            moments(s, torch.full((batch, 1), float(s)))
    assert [s for s, _ in moments.seen()] == seen
    assert all(x.shape == (3, 1) and (x == s).all() for s, x in moments.seen())


def test_every_grid_of_the_package_has_a_name():
    assert find_grid("quadratic") is quadratic_grid
    with pytest.raises(ConfigError, match=r"did you mean leading\?.*trailing"):
        find_grid("leeding")


@pytest.mark.parametrize("text", ["10", "-1", "x", "1,,2", "1.5", ""])
def test_what_is_no_class_is_named(text):
    with pytest.raises(ConfigError, match=r"is no class: give one of 0 … 9"):
        labels_of(text, 10)


def test_a_model_without_classes_has_none_to_draw():
    assert labels_of("[4, 1]", 5) == [4, 1]
    assert labels_of("none", None) == []
    with pytest.raises(ConfigError, match="the model has no classes"):
        labels_of("3", None)
