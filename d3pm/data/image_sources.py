"""Finding pictures by their name: those that ship with scikit-learn, a path, a local data folder, the hub."""

from pathlib import Path

import numpy as np

from d3pm.data.gallery import Custom, Gallery
from d3pm.data.image_arrays import Arrays, idx_readers, npz_reader, npz_readers
from d3pm.data.image_folder import PictureFolder
from d3pm.data.image_hub import HubPictures
from d3pm.data.places import data_folder
from d3pm.errors import DataError

CUSTOMS = {
    "digits": Custom(180, in_order=False),
    "mnist": Custom(5000, in_order=True),
    "fashion_mnist": Custom(5000, in_order=True),
    "cifar10": Custom(5000, in_order=True),
}
HUB_NAMES = {
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
}
"""What the hub calls them."""


def find(
    source: str,
    size: int | None = None,
    column: str | None = None,
    subset: str | None = None,
    cache_dir: str | None = None,
) -> Gallery:
    """The pictures of a name.

    ``"digits"`` are the 8 x 8 digits that ship with scikit-learn. What looks like a path (``./folder``,
    ``data/a.npz``) is one. Any other name is looked for in the folder ``$D3PM_DATA`` (a folder or an ``.npz``
    of that name), then on the hub through ``datasets``.

    Raises:
        DataError: If there is no such thing, or it holds no pictures. The message says where it was looked for.
    """
    if source == "digits":
        return digits(size)
    if path := _as_path(source) or _in_data_folder(source):
        return _from_path(path.resolve(), size)
    hub_name = HUB_NAMES.get(source, source)
    return HubPictures(source, hub_name, subset, column, size, cache_dir, CUSTOMS.get(source))


def digits(size: int | None) -> Arrays:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8, levels 0 … 16."""

    def read() -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_digits

        found = load_digits()
        return found.images.astype(np.uint8), found.target

    return Arrays("scikit-learn", {"train": read}, size, levels=17, custom=CUSTOMS["digits"])


def _as_path(source: str) -> Path | None:
    path = Path(source).expanduser()
    named_like_one = source.startswith((".", "~", "/")) or path.suffix == ".npz"
    if path.exists() and (named_like_one or len(path.parts) > 1):
        return path
    if named_like_one:
        raise DataError(f"source: {source!r} does not exist: give the path of a folder of pictures")
    return None


def _in_data_folder(name: str) -> Path | None:
    if not (folder := data_folder()):
        return None
    return next((path for path in (folder / name, folder / f"{name}.npz") if path.exists()), None)


def _from_path(path: Path, size: int | None) -> Gallery:
    if path.is_file():
        if path.suffix != ".npz":
            raise DataError(f"source: {path} is a file: give its folder, or an .npz file")
        return Arrays(str(path), {"train": npz_reader(path)}, size)
    if readers := idx_readers(path) or npz_readers(path):
        if "train" not in readers:
            raise DataError(
                f"source: {path} has {', '.join(readers)} but no train file: add one named train…"
            )
        return Arrays(str(path), readers, size, custom=CUSTOMS.get(path.name))
    return PictureFolder(path, size)
