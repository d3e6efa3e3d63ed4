"""Images in HDF5 files: read as they are, and what is missing is named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mapex_lightning.data.sets import hdf5
from mapex_lightning.data.sets.hdf5 import Layer
from mapex_lightning.errors import MapexError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An image of two bands, and a list that is none."""
    path = tmp_path / "some.h5"
    with h5py.File(path, "w") as target:
        target["place/image"] = np.arange(12, dtype=np.uint16).reshape(2, 3, 2)
        target["days"] = [1, 2]
    return path


def test_bands_come_first(file: Path) -> None:
    image = hdf5.read(Layer(file, "place/image"))
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, [[[0, 2, 4], [6, 8, 10]], [[1, 3, 5], [7, 9, 11]]])


@pytest.mark.parametrize(("name", "found"), [("place/mask", "nothing"), ("place", "HDF5 group"), ("days", "HDF5 data")])
def test_what_is_no_image_is_named(file: Path, name: str, found: str) -> None:
    with pytest.raises(MapexError, match=rf"some\.h5 must hold an image .* at {name}; found .*{found}"):
        hdf5.read(Layer(file, name))


def test_a_link_to_another_file_is_not_followed(tmp_path: Path, file: Path) -> None:
    with h5py.File(tmp_path / "linked.h5", "w") as target:
        target["image"] = h5py.ExternalLink(str(file), "place/image")
    with pytest.raises(MapexError, match=r"linked\.h5 holds nothing at image but a link to .*some\.h5"):
        hdf5.read(Layer(tmp_path / "linked.h5", "image"))


def names_a_file(target: h5py.File, file: Path) -> None:
    """The image is bytes of another file, whatever that is."""
    target.create_dataset("image", (2, 3, 2), np.uint16, external=[(str(file), 0, 24)])


def is_put_together(target: h5py.File, file: Path) -> None:
    """The image is that of another HDF5 file."""
    layout = h5py.VirtualLayout((2, 3, 2), np.uint16)
    layout[:] = h5py.VirtualSource(str(file), "place/image", (2, 3, 2))
    target.create_virtual_dataset("image", layout)


@pytest.mark.parametrize("write", [names_a_file, is_put_together])
def test_an_image_whose_pixels_lie_in_another_file_is_not_read(
    tmp_path: Path, file: Path, write: Callable[[h5py.File, Path], None]
) -> None:
    with h5py.File(tmp_path / "evil.h5", "w") as target:
        write(target, file)
    with pytest.raises(MapexError, match=r"evil\.h5 holds no pixels at image but the names of files"):
        hdf5.read(Layer(tmp_path / "evil.h5", "image"))


def test_a_file_that_is_missing_or_damaged_is_named(tmp_path: Path, file: Path) -> None:
    with pytest.raises(MapexError, match=r"none\.h5 cannot be read as HDF5"):
        hdf5.read(Layer(tmp_path / "none.h5", "image"))
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(MapexError, match=r"some\.h5 cannot be read as HDF5"):
        hdf5.read(Layer(file, "place/image"))


def test_without_h5py_a_sentence_says_what_to_install(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MapexError, match=r"pip install 'mapex-lightning\[hdf5\]'"):
        hdf5.read(Layer(file, "place/image"))
