"""Pictures as files or on the hub: where they lie says what they are."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from d3pm.data import ImageData
from d3pm.data.base import SPLITS
from d3pm.errors import DataError

RNG = np.random.default_rng(0)


def picture(mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Image.Image:
    array = RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(array).convert(mode)


def save(path, image: Image.Image | None = None) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image or picture()
    image.save(path)
    return np.asarray(image)


def refusal(source, split: str = "train", **options) -> str:
    with pytest.raises(DataError) as caught:
        ImageData(str(source), **options).split(split)
    message = str(caught.value)
    assert "\n" not in message
    return message


def shown(source, split: str = "train", **options) -> np.ndarray:
    rows = ImageData(str(source), **options).split(split)
    return rows.images.permute(0, 2, 3, 1).numpy()


class TestFiles:
    def test_png_files_are_taken_as_they_are_in_the_order_of_names(self, tmp_path):
        saved = np.stack([save(tmp_path / f"{i:02}.png") for i in range(20)])
        (tmp_path / "notes.txt").write_text("no picture")
        data = ImageData(str(tmp_path))
        assert (data.shape, data.codec.num_symbols) == ((3, 4, 6), 256)
        found = np.concatenate([shown(tmp_path, name) for name in SPLITS])
        assert sorted(map(bytes, found)) == sorted(map(bytes, saved))
        kept = [i for i in range(20) if bytes(saved[i]) in set(map(bytes, shown(tmp_path)))]
        assert np.array_equal(shown(tmp_path), saved[kept])

    def test_splits_and_classes_are_folders(self, tmp_path):
        for split, number in {"train": 3, "val": 2, "test": 1}.items():
            for name in ("dog", "cat"):
                for i in range(number):
                    save(tmp_path / split / name / f"{i}.JPG")
        data = ImageData(str(tmp_path), labels=True)
        assert data.class_names == ["cat", "dog"]
        assert [len(data.split(name)) for name in SPLITS] == [6, 4, 2]
        assert data.split("train").labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert data.split("test")[1]["labels"] == 1
        assert "12 pictures 4 x 6, colour, 256 levels, 2 classes" in data.describe()

    def test_classes_without_splits_are_cut_evenly(self, tmp_path):
        for name in ("a", "b"):
            for i in range(20):
                save(tmp_path / name / f"{i:02}.png")
        data = ImageData(str(tmp_path), labels=True)
        for name, each in zip(SPLITS, (18, 1, 1), strict=True):
            assert torch.bincount(data.split(name).labels).tolist() == [each, each]

    def test_grey_files_are_one_channel(self, tmp_path):
        saved = np.stack([save(tmp_path / "train" / f"{i}.png", picture("L")) for i in range(3)])
        save(tmp_path / "valid" / "0.png", picture("L"))
        save(tmp_path / "test" / "0.png", picture("L"))
        assert np.array_equal(shown(tmp_path)[..., 0], saved)

    def test_what_is_no_plain_colour_becomes_it(self, tmp_path):
        save(tmp_path / "train" / "0.png")
        half = Image.new("RGBA", (6, 4), (255, 0, 0, 0))
        half.putpixel((0, 0), (10, 20, 30, 255))
        save(tmp_path / "train" / "1.png", half)  # transparent: on white
        grey = save(tmp_path / "train" / "2.png", picture("L"))
        palette = picture("P")
        save(tmp_path / "train" / "3.png", palette)
        for split in ("valid", "test"):
            save(tmp_path / split / "0.png")
        found = shown(tmp_path)
        assert found[1, 0, 0].tolist() == [10, 20, 30]
        assert (found[1].reshape(-1, 3)[1:] == 255).all()
        assert np.array_equal(found[2], np.repeat(grey[..., None], 3, axis=2))
        assert np.array_equal(found[3], np.asarray(palette.convert("RGB")))

    def test_photographs_are_upright(self, tmp_path):
        image = picture(size=(4, 6))
        exif = Image.Exif()
        exif[0x0112] = 6  # turn it by 90 degrees to show it
        for split in SPLITS:
            (tmp_path / split).mkdir()
            image.save(tmp_path / split / "a.png", exif=exif)
        assert np.array_equal(shown(tmp_path)[0], np.rot90(np.asarray(image), -1))

    def test_sizes_that_differ_need_a_size(self, tmp_path):
        for i, size in enumerate([(8, 8), (8, 10), (20, 9)] * 10):
            save(tmp_path / f"{i:02}.png", Image.new("RGB", size, (i, 2 * i, 3 * i)))
        message = refusal(tmp_path)
        assert "is 10 x 8 (height x width)" in message
        assert "set size, e.g. size=8" in message
        found = shown(tmp_path, size=8)
        assert found.shape == (28, 8, 8, 3)
        assert (found == found[:, :1, :1]).all()  # plain pictures stay plain

    def test_a_square_is_cut_from_the_middle(self, tmp_path):
        image = Image.new("RGB", (12, 4), "black")
        image.paste((255, 255, 255), (4, 0, 8, 4))
        for split in SPLITS:
            save(tmp_path / split / "a.png", image)
        assert (shown(tmp_path, size=4) == 255).all()
        assert (shown(tmp_path, size=2) == 255).all()

    def test_files_that_cannot_be_used(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"no picture")
        assert "a.png cannot be read" in refusal(tmp_path)
        file = io.BytesIO()
        picture(size=(60, 60)).save(file, "PNG")
        (tmp_path / "a.png").write_bytes(file.getvalue()[:2000])
        assert "a.png cannot be read" in refusal(tmp_path)
        Image.fromarray(np.zeros((4, 6), np.uint16)).save(tmp_path / "a.png")
        assert "more than 8 bits a channel" in refusal(tmp_path)
        save(tmp_path / "a.png", picture("L"))
        save(tmp_path / "b.png")
        assert "b.png is in colour (RGB), the first picture is grey" in refusal(tmp_path)

    def test_classes_that_are_amiss(self, tmp_path):
        for i in range(30):
            save(tmp_path / "cat" / f"{i}.png")
        save(tmp_path / "stray.png")
        assert len(ImageData(str(tmp_path)).split("train")) == 29
        assert "have no classes: set labels to false" in refusal(tmp_path, labels=True)
        (tmp_path / "stray.png").unlink()
        (tmp_path / "cat").rename(tmp_path / "train")
        assert "have no classes" in refusal(tmp_path, labels=True)
        save(tmp_path / "split" / "train" / "cat" / "0.png")
        save(tmp_path / "split" / "test" / "dog" / "0.png")
        message = refusal(tmp_path / "split", "test", labels=True)
        assert "0.png is of no class of the training split (cat)" in message

    def test_folders_that_hold_nothing(self, tmp_path):
        assert "no pictures in" in refusal(tmp_path)
        (tmp_path / "test").mkdir()
        assert "has test but no train folder" in refusal(tmp_path)
        (tmp_path / "a.txt").write_text("text")
        assert "is a file: give its folder" in refusal(tmp_path / "a.txt")


class TestHub:
    """The loading code is real; what it loads is made here."""

    @staticmethod
    def offer(monkeypatch, **splits):
        import datasets

        asked = []

        def load_dataset(*arguments, **options):
            asked.append((arguments, options))
            return datasets.DatasetDict(splits)

        monkeypatch.setattr("datasets.load_dataset", load_dataset)
        return asked

    @staticmethod
    def rows(images, **columns):
        import datasets

        classes = columns.pop("classes", None)
        features = {"img": datasets.Image()} | {
            name: datasets.ClassLabel(names=classes) if classes else datasets.Value("int64")
            for name in columns
        }
        encoded = []
        for image in images:
            file = io.BytesIO()
            image.save(file, "PNG")
            encoded.append({"bytes": file.getvalue(), "path": None})
        return datasets.Dataset.from_dict({"img": encoded, **columns}, datasets.Features(features))

    def test_pictures_and_classes(self, monkeypatch):
        images = [picture() for _ in range(40)]
        train = self.rows(images, fine=[i % 2 for i in range(40)], classes=["no", "yes"])
        test = self.rows(images[:4], fine=[1, 1, 0, 1], classes=["no", "yes"])
        asked = self.offer(monkeypatch, train=train, test=test)
        data = ImageData("someone/something", labels=True, subset="small", cache_dir="here", validation=10)
        assert (data.shape, data.class_names) == ((3, 4, 6), ["no", "yes"])
        assert [len(data.split(name)) for name in SPLITS] == [30, 10, 4]
        assert data.split("test").labels.tolist() == [1, 1, 0, 1]
        assert np.array_equal(
            data.split("test").images.permute(0, 2, 3, 1), np.stack([np.asarray(i) for i in images[:4]])
        )
        assert asked == [(("someone/something", "small"), {"cache_dir": "here"})]
        assert "hub dataset someone/something small" in data.describe()

    def test_known_names_are_looked_up_and_cut_at_the_end(self, monkeypatch):
        image = picture("L", (1, 1))
        labels = list(range(10)) * 501
        split = self.rows([image] * 5010, label=labels)
        asked = self.offer(monkeypatch, train=split, test=split.select(range(3)))
        data = ImageData("mnist", labels=True)
        assert data.split("train").labels.tolist() == labels[:10]
        assert len(data.split("validation")) == 5000
        assert data.num_classes == 10
        assert asked[0][0] == ("ylecun/mnist", None)

    def test_columns(self, monkeypatch):
        self.offer(monkeypatch, train=self.rows([picture()] * 30))
        assert "set column to one of img" in refusal("someone/something", column="image")
        assert "have no classes" in refusal("someone/something", labels=True)
        import datasets

        self.offer(monkeypatch, train=datasets.Dataset.from_dict({"text": ["a"]}))
        assert "has no pictures, only text" in refusal("someone/something")

    def test_a_row_without_a_picture(self, monkeypatch):
        rows = self.rows([picture()] * 30).map(
            lambda row, i: row if i != 7 else {"img": None}, with_indices=True
        )
        self.offer(monkeypatch, train=rows)
        assert "'img' of row 7 of hub dataset" in refusal("someone/something")

    def test_splits(self, monkeypatch):
        rows = self.rows([picture()] * 30)
        self.offer(monkeypatch, full=rows)
        assert len(ImageData("someone/something").split("train")) == 28
        self.offer(monkeypatch, full=rows, test=rows)
        assert "but no train split" in refusal("someone/something")

    def test_out_of_reach(self):
        message = refusal("someone/something")
        assert message.startswith(
            "source: 'someone/something' is neither digits, nor in $D3PM_DATA (not set)"
        )
        assert "give a path" in message
