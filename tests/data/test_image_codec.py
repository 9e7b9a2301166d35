"""Pictures to floats and back: every level survives, and what does not fit says so in one line."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from d3pm.data import ImageCodec, TextCodec
from d3pm.data.image_codec import requantize
from d3pm.errors import ConfigError, D3PMError, DataError

LEVELS = st.integers(2, 256)


def ramp(levels: int) -> np.ndarray:
    return np.arange(levels)[None]


def refusal(function, *arguments) -> str:
    with pytest.raises(D3PMError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestLevels:
    @given(LEVELS)
    def test_even_steps_from_end_to_end(self, levels):
        x = ImageCodec((1, 1, levels), levels).encode(ramp(levels))
        assert x.dtype == torch.float32
        assert x.shape == (1, 1, levels)
        assert (x.min().item(), x.max().item()) == (-1.0, 1.0)
        exact = 2 * torch.arange(levels, dtype=torch.float64) / (levels - 1) - 1
        assert torch.equal(x[0, 0], exact.float())  # the nearest float there is
        assert torch.equal(x, -x.flip(-1))

    @given(LEVELS)
    def test_nothing_is_lost(self, levels):
        codec = ImageCodec((1, 1, levels), levels)
        x = codec.encode(ramp(levels))
        assert codec.symbols(x).tolist() == [ramp(levels).tolist()]
        (shown,) = codec.decode(x[None])
        assert torch.equal(codec.encode(shown), x)

    @given(LEVELS, st.floats(-0.499, 0.499))
    def test_what_lies_between_goes_to_the_nearest(self, levels, by):
        codec = ImageCodec((1, 1, levels), levels)
        x = codec.encode(ramp(levels)).double() + by * 2 / (levels - 1)
        assert codec.symbols(x)[0, 0].tolist() == list(range(levels))

    def test_beyond_the_ends(self):
        codec = ImageCodec((1, 1, 2), levels=7)
        assert codec.symbols(torch.tensor([-1e30, 3.0])).tolist() == [0, 6]
        assert np.asarray(codec.decode(torch.tensor([[[[-9.0, 9.0]]]]))[0]).tolist() == [[0, 255]]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    def test_any_float(self, dtype):
        codec = ImageCodec((1, 1, 256))
        x = codec.encode(ramp(256)).to(dtype).requires_grad_()
        assert codec.symbols(x)[0, 0].tolist() == list(range(256))

    def test_sixteen_levels_survive_bfloat16(self):
        codec = ImageCodec((1, 1, 16), levels=16)
        x = codec.encode(ramp(16)).to(torch.bfloat16)
        assert codec.symbols(x)[0, 0].tolist() == list(range(16))

    def test_symbols_of_text_are_the_text(self):
        codec = TextCodec.characters()
        x = codec.encode("a cat")
        assert torch.equal(codec.symbols(x), x)


class TestRequantize:
    @given(LEVELS, LEVELS)
    def test_it_is_the_nearest_level(self, before, after):
        found = requantize(np.arange(before), before, after)
        distance = np.abs(found / (after - 1) - np.arange(before) / (before - 1))
        assert found.dtype == np.uint8
        assert distance.max() <= 0.5 / (after - 1) + 1e-12
        assert (found[0], found[-1]) == (0, after - 1)
        assert (np.diff(found.astype(int)) >= 0).all()

    @given(LEVELS, LEVELS)
    def test_up_and_down_again_loses_nothing(self, one, other):
        few, many = sorted((one, other))
        levels = np.arange(few)
        assert requantize(requantize(levels, few, many), many, few).tolist() == levels.tolist()


class TestPictures:
    def test_channels_come_first(self):
        picture = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        codec = ImageCodec((3, 4, 5))
        x = codec.encode(picture)
        assert torch.equal(codec.symbols(x), torch.from_numpy(picture).permute(2, 0, 1).long())
        assert torch.equal(codec.encode(Image.fromarray(picture)), x)
        (shown,) = codec.decode(x[None])
        assert shown.mode == "RGB"
        assert np.array_equal(np.asarray(shown), picture)

    def test_grey_with_and_without_an_axis(self):
        codec = ImageCodec((1, 2, 3), levels=6)
        picture = np.arange(6).reshape(2, 3)
        assert torch.equal(codec.encode(picture), codec.encode(picture[..., None]))
        assert codec.decode(codec.encode(picture)[None])[0].mode == "L"

    def test_a_batch_is_as_many_pictures_of_any_size(self):
        shown = ImageCodec((1, 2, 2)).decode(torch.zeros(5, 1, 3, 4))
        assert [image.size for image in shown] == [(4, 3)] * 5
        assert ImageCodec((1, 2, 2)).decode(torch.zeros(0, 1, 2, 2)) == []


class TestLevelsAsSymbols:
    @given(LEVELS)
    def test_they_are_what_the_floats_stand_for(self, levels):
        real, discrete = (ImageCodec((1, 1, levels), levels, discrete) for discrete in (False, True))
        x = discrete.encode(ramp(levels))
        assert x.dtype == torch.int64
        assert torch.equal(x, real.symbols(real.encode(ramp(levels))))
        assert torch.equal(discrete.symbols(x), x)
        assert discrete.num_symbols == levels
        shown, expected = (
            np.asarray(codec.decode(codec.encode(ramp(levels))[None])[0]) for codec in (discrete, real)
        )
        assert np.array_equal(shown, expected)
        assert torch.equal(discrete.encode(Image.fromarray(shown)), x)

    @given(LEVELS)
    def test_a_mask_is_the_middle_grey(self, levels):
        codec = ImageCodec((3, 1, 2), levels, discrete=True)
        x = torch.tensor([[[[0, levels - 1]], [[levels, 0]], [[0, levels]]]])
        (shown,) = codec.decode(x)
        assert np.asarray(shown).tolist() == [[[0, 128, 0], [255, 0, 128]]]

    def test_the_two_codes_differ(self):
        real, discrete = (ImageCodec((1, 8, 8), 17, discrete) for discrete in (False, True))
        assert real != discrete
        assert (real.real, discrete.real) == (True, False)

    def test_what_was_saved_before_there_were_two_is_of_floats(self, tmp_path):
        (tmp_path / "image_codec.json").write_text('{"shape": [1, 8, 8], "levels": 17}')
        assert ImageCodec.from_pretrained(tmp_path) == ImageCodec((1, 8, 8), 17)

    @pytest.mark.parametrize(
        ("x", "says"),
        [
            (torch.zeros(1, 1, 2, 2), "float32 is no picture of grey levels: give whole numbers"),
            (torch.zeros(1, 1, 2, 2, dtype=torch.bool), "bool is no picture"),
            (
                torch.tensor([[[[0, 0], [6, 0]]]]),
                "value 6 at picture 0, channel 0, row 1, column 0 lies outside 0 … 5",
            ),
            (torch.tensor([[[[0, -1], [5, 0]]]]), "value -1 at picture 0, channel 0, row 0, column 1"),
            (torch.zeros(1, 3, 2, 2, dtype=torch.int64), "no batch of pictures of 1 channels"),
        ],
    )
    def test_what_cannot_be_decoded(self, x, says):
        assert says in refusal(ImageCodec((1, 2, 2), 5, discrete=True).decode, x)

    def test_a_mask_is_no_picture(self):
        says = refusal(ImageCodec((1, 2, 2), 5, discrete=True).encode, np.full((2, 2), 5))
        assert "value 5 at row 0, column 0, channel 0 lies outside 0 … 4" in says


class TestSaving:
    @pytest.mark.parametrize("discrete", [False, True])
    def test_it_comes_back_equal(self, tmp_path, discrete):
        codec = ImageCodec((3, 8, 9), levels=16, discrete=discrete)
        codec.save_pretrained(tmp_path / "new" / "folder")
        again = ImageCodec.from_pretrained(tmp_path / "new" / "folder")
        assert again == codec
        assert hash(again) == hash(codec)
        assert again.shape == (3, 8, 9)

    @pytest.mark.parametrize(
        "other", [ImageCodec((1, 8, 8)), ImageCodec((3, 8, 8), 17), ImageCodec((1, 8, 9), 17), "text"]
    )
    def test_others_differ(self, other):
        assert ImageCodec((1, 8, 8), 17) != other

    def test_none_there(self, tmp_path):
        assert "cannot be read" in refusal(ImageCodec.from_pretrained, tmp_path)
        assert "hub" in refusal(ImageCodec.from_pretrained, "nobody/nothing")

    @pytest.mark.parametrize("text", ["", "[]", '{"levels": 3}', '{"shape": [2, 8, 8], "levels": 3}'])
    def test_a_broken_file(self, tmp_path, text):
        (tmp_path / "image_codec.json").write_text(text)
        assert "image_codec.json cannot be read" in refusal(ImageCodec.from_pretrained, tmp_path)


class TestMistakes:
    codec = ImageCodec((1, 2, 2), levels=17)

    @pytest.mark.parametrize(
        ("item", "says"),
        [
            (np.zeros((2, 2)), "float64 values are no grey levels"),
            (np.zeros((2, 2), bool), "bool values are no grey levels"),
            ("text", "no grey levels"),
            (np.zeros((2, 3), int), r"shape (2, 3, 1) is not (height, width, channels) = (2, 2, 1)"),
            (np.zeros((2, 2, 3), np.uint8), "resize or convert it"),
            (np.full((2, 2), 17), "value 17 at row 0, column 0, channel 0 lies outside 0 … 16"),
            (np.array([[16, 0], [3, -1]]), "value -1 at row 1, column 1, channel 0 lies outside 0 … 16"),
            (Image.new("RGB", (2, 2)), "give image.convert('L')"),
            (Image.new("L", (3, 2)), "resize or convert it"),
        ],
    )
    def test_what_cannot_be_encoded(self, item, says):
        with pytest.raises(DataError):
            self.codec.encode(item)
        assert says in refusal(self.codec.encode, item)

    @pytest.mark.parametrize(
        ("x", "says"),
        [
            (torch.zeros(1, 2, 2), "no batch of pictures of 1 channels"),
            (torch.zeros(1, 3, 2, 2), "no batch of pictures of 1 channels"),
            (torch.zeros(1, 1, 2, 2, dtype=torch.int64), "int64 is no picture in [-1, 1]"),
            (torch.tensor([[[[0.0, torch.nan], [torch.inf, 0.0]]]]), "2 of 4 entries are not finite"),
        ],
    )
    def test_what_cannot_be_decoded(self, x, says):
        assert says in refusal(self.codec.decode, x)

    @pytest.mark.parametrize("levels", [1, 257, -3])
    def test_levels(self, levels):
        with pytest.raises(ConfigError, match="give 2 … 256"):
            ImageCodec((1, 2, 2), levels)

    @pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8), (1, 0, 8), (8, 8, 1)])
    def test_shapes(self, shape):
        with pytest.raises(ConfigError, match="1 or 3 channels"):
            ImageCodec(shape)
