"""From a name to pictures: bytes are what the source holds, splits share nothing, flips are fair."""

import gzip
import hashlib
import json
import math
import pickle

import numpy as np
import pytest
import torch
from test_idx import idx
from torch.utils.data import DataLoader

from d3pm.data import ImageCodec, ImageData, frequencies
from d3pm.data.base import SPLITS
from d3pm.data.image_rows import ImageRows
from d3pm.data.pictures import Pictures, held_out
from d3pm.errors import ConfigError, D3PMError, DataError
from d3pm.evaluation import unigram_entropy

MNIST_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
"""Of 60,000 and 10,000 pictures, class by class, as published."""


def read(data: ImageData) -> None:
    for name in SPLITS:
        data.split(name)


def refusal(*arguments, **options) -> str:
    with pytest.raises(D3PMError) as caught:
        read(ImageData(*arguments, **options))
    message = str(caught.value)
    assert "\n" not in message
    return message


def levels(rows: ImageRows) -> torch.Tensor:
    batch = rows.__getitems__(range(len(rows)))
    return rows.codec.symbols(torch.stack([item["x0"] for item in batch]))


def write_npz(path, images, labels=None):
    arrays = {"images": images} if labels is None else {"images": images, "labels": labels}
    np.savez(path, **arrays)


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (40, 4, 6, 3), dtype=np.uint8)


class TestDigits:
    def test_they_are_those_of_scikit_learn(self):
        from sklearn.datasets import load_digits

        data = ImageData(labels=True)
        assert (data.shape, data.codec) == ((1, 8, 8), ImageCodec((1, 8, 8), levels=17))
        ours = torch.cat([levels(data.split(name)) for name in SPLITS]).reshape(-1, 64).numpy()
        labels = torch.cat([data.split(name).labels for name in SPLITS]).numpy()
        theirs = load_digits()
        assert sorted(map(tuple, np.c_[ours, labels].tolist())) == sorted(
            map(tuple, np.c_[theirs.data, theirs.target].astype(int).tolist())
        )

    def test_splits_are_stratified(self):
        data = ImageData(labels=True)
        assert [len(data.split(name)) for name in SPLITS] == [1437, 180, 180]
        counts = {name: torch.bincount(data.split(name).labels, minlength=10) for name in SPLITS}
        whole = sum(counts.values())
        for name in SPLITS[1:]:
            assert (counts[name] - whole * 180 / 1797).abs().max() <= 1

    def test_nothing_is_drawn(self):
        state = torch.get_rng_state()
        first, second = ImageData(), ImageData()
        for name in SPLITS:
            assert torch.equal(levels(first.split(name)), levels(second.split(name)))
        unigram_entropy(first.split("train"), 17, first.codec)
        assert torch.equal(torch.get_rng_state(), state)

    def test_validation_of_another_size(self):
        data = ImageData(validation=300)
        assert [len(data.split(name)) for name in SPLITS] == [1317, 300, 180]

    def test_entropy_is_that_of_the_levels(self):
        data = ImageData()
        for name in SPLITS:
            _, counts = levels(data.split(name)).unique(return_counts=True)
            law = counts / counts.sum()
            expected = -(law * law.log2()).sum().item()
            assert unigram_entropy(data.split(name), 17, data.codec) == pytest.approx(expected, abs=1e-5)
            assert 0 < expected < math.log2(17)

    def test_levels_are_those_of_the_floats(self):
        data, floats = ImageData(labels=True, discrete=True), ImageData(labels=True)
        for name in SPLITS:
            item = data.split(name)[3]
            assert (item["x0"].dtype, item["x0"].shape) == (torch.int64, data.shape)
            assert torch.equal(levels(data.split(name)), levels(floats.split(name)))
            assert item["labels"] == floats.split(name)[3]["labels"]
        assert "17 levels as categories" in data.describe()
        assert unigram_entropy(data.split("test"), 17) == unigram_entropy(
            floats.split("test"), 17, floats.codec
        )

    def test_floats_without_a_codec_have_no_symbols(self):
        for law in (frequencies, unigram_entropy):
            with pytest.raises(DataError, match=r"codec: rows of torch\.float32 are no symbols"):
                law(ImageData().split("train"), 17)


class TestMnist:
    @pytest.fixture
    def mnist(self, real_data):
        real_data("mnist/train-images-idx3-ubyte.gz")
        return ImageData("mnist", labels=True)

    def test_the_canonical_split(self, mnist):
        assert [len(mnist.split(name)) for name in SPLITS] == [55_000, 5_000, 10_000]
        assert (mnist.shape, mnist.codec.num_symbols, mnist.num_classes) == ((1, 28, 28), 256, 10)
        held_in = torch.cat([mnist.split("train").labels, mnist.split("validation").labels])
        assert torch.bincount(held_in).tolist() == MNIST_COUNTS
        assert torch.bincount(mnist.split("test").labels).tolist() == MNIST_TEST_COUNTS
        assert held_in[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]

    def test_the_first_picture_is_the_five(self, mnist):
        rows = mnist.split("train")
        item = rows[0]
        shown = rows.codec.symbols(item["x0"])
        assert item["labels"] == 5
        assert shown.sum().item() == 27_525
        digest = hashlib.md5(shown.to(torch.uint8).numpy().tobytes()).hexdigest()
        assert digest == hashlib.md5(self.raw(mnist)[:784]).hexdigest()

    def test_published_mean_and_deviation(self, mnist):
        held_in = torch.cat([mnist.split("train").images, mnist.split("validation").images]).numpy()
        assert held_in.tobytes() == self.raw(mnist)
        law = np.bincount(held_in.ravel(), minlength=256) / held_in.size
        mean = (law * np.arange(256)).sum() / 255
        variance = (law * np.arange(256) ** 2).sum() / 255**2 - mean**2
        assert (round(mean, 4), round(math.sqrt(variance), 4)) == (0.1307, 0.3081)

    def test_fewer_levels(self, real_data, mnist):
        few = ImageData("mnist", levels=2)
        assert few.codec.num_symbols == 2
        expected = (mnist.split("test").images >= 128).to(torch.uint8)
        assert torch.equal(few.split("test").images, expected)

    @staticmethod
    def raw(mnist: ImageData) -> bytes:
        folder = mnist._gallery.where
        with gzip.open(f"{folder}/train-images-idx3-ubyte.gz") as file:
            return file.read()[16:]


def test_real_fashion_mnist(real_data):
    real_data("fashion_mnist/train-images-idx3-ubyte.gz")
    data = ImageData("fashion_mnist", labels=True)
    assert torch.bincount(data.split("test").labels).tolist() == [1000] * 10
    assert "70,000 pictures 28 x 28, grey, 256 levels, 10 classes" in data.describe()


def test_real_cifar10(real_data):
    real_data("cifar10/train.npz")
    data = ImageData("cifar10", labels=True)
    assert [len(data.split(name)) for name in SPLITS] == [45_000, 5_000, 10_000]
    held_in = torch.cat([data.split("train").images, data.split("validation").images]).double() / 255
    assert held_in.mean((0, 2, 3)).numpy().round(4).tolist() == [0.4914, 0.4822, 0.4465]


class TestArrays:
    def test_named_splits(self, tmp_path, noise):
        write_npz(tmp_path / "train.npz", noise[:20], np.arange(20) % 3)
        write_npz(tmp_path / "valid.npz", noise[20:25], np.zeros(5, int))
        write_npz(tmp_path / "test.npz", noise[25:], np.ones(15, int))
        data = ImageData(str(tmp_path), labels=True)
        assert (data.shape, data.num_classes, data.class_names) == ((3, 4, 6), 3, ["0", "1", "2"])
        found = torch.cat([levels(data.split(name)) for name in SPLITS])
        assert np.array_equal(found.permute(0, 2, 3, 1).numpy(), noise)

    def test_one_file_is_cut_and_shares_nothing(self, tmp_path, noise):
        write_npz(tmp_path / "a.npz", noise)
        for source in (tmp_path, tmp_path / "a.npz"):
            data = ImageData(str(source))
            assert [len(data.split(name)) for name in SPLITS] == [36, 2, 2]
            found = torch.cat([levels(data.split(name)) for name in SPLITS]).permute(0, 2, 3, 1).numpy()
            assert sorted(map(bytes, found.astype(np.uint8))) == sorted(map(bytes, noise))

    def test_the_last_of_a_known_one(self, tmp_path, monkeypatch):
        folder = tmp_path / "mnist"
        folder.mkdir()
        images = np.arange(5003, dtype=np.uint16).view(np.uint8).reshape(5003, 1, 2)
        (folder / "train-images-idx3-ubyte").write_bytes(idx(images))
        (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images[:1])))
        monkeypatch.setenv("D3PM_DATA", str(tmp_path))
        data = ImageData("mnist")
        assert np.array_equal(data.split("train").images[:, 0].numpy(), images[:3])
        assert np.array_equal(data.split("validation").images[:, 0].numpy(), images[3:])
        assert len(data.split("test")) == 1
        assert [len(ImageData("mnist", validation=3).split(name)) for name in SPLITS] == [5000, 3, 1]

    def test_resampled_to_a_square(self, tmp_path):
        halves = np.zeros((20, 4, 6), np.uint8)
        halves[:, :, 3:] = 200
        write_npz(tmp_path / "a.npz", halves)
        data = ImageData(str(tmp_path), size=2)
        assert data.shape == (1, 2, 2)
        shown = levels(data.split("train"))
        assert (shown[..., 0] < 50).all()
        assert (shown[..., 1] > 150).all()
        assert ImageData("digits", size=16).codec == ImageCodec((1, 16, 16), levels=17)
        assert levels(ImageData("digits", size=16).split("test")).max() <= 16

    def test_fewer_levels(self, tmp_path, noise):
        write_npz(tmp_path / "a.npz", noise)
        whole, few = ImageData(str(tmp_path)), ImageData(str(tmp_path), levels=16)
        assert few.codec.num_symbols == 16
        assert torch.equal(levels(few.split("train")), (levels(whole.split("train")) / 17).round().long())

    @pytest.mark.parametrize(
        ("images", "labels", "says"),
        [
            (np.zeros((4, 2, 2)), None, "float64 (4, 2, 2): give uint8"),
            (np.zeros((4, 2, 2, 5), np.uint8), None, "give uint8"),
            (np.zeros((0, 2, 2), np.uint8), None, "no picture in"),
            (np.zeros((4, 2, 2), np.uint8), np.zeros(3, int), "4 pictures, 3 labels"),
            (np.zeros((40, 2, 2), np.uint8), -np.ones(40, int), "-1 … -1, outside 0 …"),
        ],
    )
    def test_arrays_that_are_no_pictures(self, tmp_path, images, labels, says):
        write_npz(tmp_path / "a.npz", images, labels)
        assert says in refusal(str(tmp_path), labels=labels is not None)

    def test_a_class_that_training_lacks(self, tmp_path, noise):
        write_npz(tmp_path / "train.npz", noise, np.arange(40) % 3)
        write_npz(tmp_path / "test.npz", noise, np.arange(40) % 4)
        assert "labels: those of the test split" in refusal(str(tmp_path), labels=True)

    def test_splits_of_two_shapes(self, tmp_path, noise):
        write_npz(tmp_path / "train.npz", noise)
        write_npz(tmp_path / "test.npz", noise[:, :3])
        assert "the test pictures" in refusal(str(tmp_path))

    def test_files_that_cannot_be_read(self, tmp_path, noise):
        np.savez(tmp_path / "train.npz", x=noise)
        assert "name the array of pictures 'images'" in refusal(str(tmp_path))
        (tmp_path / "train.npz").write_bytes((tmp_path / "train.npz").read_bytes()[:500])
        assert "replace it with a whole file" in refusal(str(tmp_path))
        (tmp_path / "train.npz").unlink()
        write_npz(tmp_path / "test.npz", noise)
        write_npz(tmp_path / "valid.npz", noise)
        assert "but no train file" in refusal(str(tmp_path))


class TestRows:
    def test_levels_are_flipped_like_floats(self):
        images = np.random.default_rng(0).integers(0, 256, (9, 1, 3, 4), np.uint8)
        found = []
        for discrete in (False, True):
            torch.manual_seed(1)
            found.append(
                levels(ImageRows(Pictures(images, None), ImageCodec((1, 3, 4), discrete=discrete), flip=True))
            )
        assert torch.equal(*found)

    @staticmethod
    def rows(flip: bool, number: int = 2000) -> ImageRows:
        images = np.tile(np.array([[[[0, 255]]]], np.uint8), (number, 1, 1, 1))
        return ImageRows(Pictures(images, np.arange(number)), ImageCodec((1, 1, 2)), labels=True, flip=flip)

    def test_a_batch_is_its_items(self):
        rows = self.rows(flip=False, number=10)
        for index, item in zip([3, -1, 7], rows.__getitems__([3, -1, 7]), strict=True):
            one = rows[index]
            assert item.keys() == one.keys() == {"x0", "labels"}
            assert torch.equal(item["x0"], one["x0"])
            assert torch.equal(item["labels"], one["labels"])
            assert (one["x0"].dtype, one["labels"].dtype, one["labels"].ndim) == (
                torch.float32,
                torch.int64,
                0,
            )
        with pytest.raises(IndexError):
            rows[10]

    def test_a_loader_gives_all_of_them_once(self):
        rows = self.rows(flip=False, number=10)
        found = torch.cat([batch["labels"] for batch in DataLoader(rows, batch_size=3, shuffle=True)])
        assert sorted(found.tolist()) == list(range(10))

    def test_without_labels(self):
        rows = ImageRows(Pictures(np.zeros((1, 1, 2, 2), np.uint8), None), ImageCodec((1, 2, 2)))
        assert rows[0].keys() == {"x0"}

    def test_half_are_flipped(self):
        torch.manual_seed(0)
        rows = self.rows(flip=True)
        flipped = sum(int(item["x0"][0, 0, 0] > 0) for item in rows.__getitems__(range(2000)))
        assert abs(flipped - 1000) < 4 * math.sqrt(2000 / 4)
        once = sum(int(rows[0]["x0"][0, 0, 0] > 0) for _ in range(1000))  # and each of them at every access
        assert abs(once - 500) < 4 * math.sqrt(1000 / 4)

    def test_a_flip_mirrors_left_and_right_only(self):
        torch.manual_seed(0)
        images = np.arange(24, dtype=np.uint8).reshape(1, 2, 3, 4)[:, :1]
        rows = ImageRows(Pictures(images, None), ImageCodec((1, 3, 4)), flip=True)
        found = {tuple(rows.codec.symbols(rows[0]["x0"]).flatten().tolist()) for _ in range(30)}
        assert found == {tuple(images.ravel()), tuple(images[..., ::-1].ravel())}

    def test_a_resumed_run_sees_the_same(self):
        rows = self.rows(flip=True, number=50)
        state = torch.get_rng_state()
        first = [batch["x0"] for batch in DataLoader(rows, batch_size=16, shuffle=True)]
        torch.set_rng_state(state)
        again = [batch["x0"] for batch in DataLoader(rows, batch_size=16, shuffle=True)]
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))

    def test_only_training_pictures_are_flipped(self):
        data = ImageData(flip=True)
        assert [data.split(name).flip for name in SPLITS] == [True, False, False]
        assert not any(ImageData().split(name).flip for name in SPLITS)

    def test_counting_levels_leaves_the_draws_of_a_run_alone(self):
        data = ImageData(flip=True)
        state = torch.get_rng_state()
        flipped = unigram_entropy(data.split("train"), 17, data.codec)
        assert torch.equal(torch.get_rng_state(), state)
        assert flipped == pytest.approx(unigram_entropy(ImageData().split("train"), 17, data.codec))

    def test_workers_can_be_sent_one(self):
        rows = pickle.loads(pickle.dumps(ImageData(labels=True).split("test")))
        assert torch.equal(rows[0]["x0"], ImageData().split("test")[0]["x0"])


@pytest.mark.parametrize("counts", [[1], [3], [7, 5], [4, 4]])
def test_held_out_places_are_spread_and_differ(counts):
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    parts = held_out(Pictures(np.zeros((100, 1, 1, 1)), labels), counts)
    assert [len(part) for part in parts] == counts
    assert len(set(np.concatenate(parts))) == sum(counts)
    for part, count in zip(parts, counts, strict=True):
        assert np.abs(np.bincount(labels[part], minlength=3) - count * np.array([0.6, 0.3, 0.1])).max() <= 1


class TestOptions:
    def test_every_argument_is_kept(self):
        options = {
            "source": "cifar10",
            "size": 16,
            "levels": 8,
            "labels": True,
            "validation": 10,
            "flip": True,
            "column": "img",
            "subset": "plain",
            "cache_dir": "x",
            "discrete": True,
        }
        data = ImageData(**options)
        assert {name: getattr(data, name) for name in options} == options
        json.dumps(options)

    def test_nothing_is_read_before_it_is_asked_for(self):
        ImageData("/nowhere/at/all", labels=True, flip=True)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"size": 0}, "size: 0"),
            ({"levels": 1}, "levels: 1 do not fit"),
            ({"levels": 257}, "levels: 257 do not fit"),
            ({"validation": 0}, "validation: 0"),
        ],
    )
    def test_out_of_range(self, options, says):
        with pytest.raises(ConfigError, match=says):
            ImageData(**options)

    def test_against_the_source(self, tmp_path, noise):
        assert "levels: 256 are more than the 17 that digits has" in refusal("digits", levels=256)
        assert "leave none for training" in refusal("digits", validation=1617)
        write_npz(tmp_path / "train.npz", noise)
        write_npz(tmp_path / "valid.npz", noise)
        assert "has a validation split of its own" in refusal(str(tmp_path), validation=5)
        assert "have no classes: set labels to false" in refusal(str(tmp_path), labels=True)
        with pytest.raises(ConfigError, match="one of train, validation, test"):
            ImageData().split("valid")

    def test_no_such_source(self, tmp_path, monkeypatch):
        assert "does not exist" in refusal("./nowhere")
        assert "does not exist" in refusal("nowhere.npz")
        assert "D3PM_DATA (not set)" in refusal("mnist")
        monkeypatch.setenv("D3PM_DATA", str(tmp_path))
        assert f"nor in $D3PM_DATA ({tmp_path})" in refusal("cifar10")
        (tmp_path / "empty").mkdir()
        assert "no pictures in" in refusal("empty")
        monkeypatch.setenv("D3PM_DATA", str(tmp_path / "none"))
        assert "is not a folder" in refusal("mnist")
