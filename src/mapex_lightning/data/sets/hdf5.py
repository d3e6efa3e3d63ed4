"""Images inside HDF5 files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange

from mapex_lightning.data.extras import imported
from mapex_lightning.errors import MapexError


class Layer(NamedTuple):
    """An image in an HDF5 file, bands last: (H, W, C).

    Attributes:
        file: the HDF5 file.
        name: the path of the image inside it.
    """

    file: Path
    name: str

    def __str__(self) -> str:
        return f"{self.file} at {self.name}"


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file as h5py gives it, open for reading.

    Raises:
        MapexError: h5py is not installed, or the file cannot be opened or read.
    """
    h5py = imported("h5py", "hdf5", str(path))
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise MapexError(f"{path} cannot be read as HDF5 ({error}). Fetch it again.") from error


def read(layer: Layer) -> np.ndarray:
    """The image as it is stored: (C, H, W).

    Raises:
        MapexError: the file cannot be read, or has no such image.
    """
    with opened(layer.file) as file:
        found = file.get(layer.name)
        if found is not None and Path(found.file.filename) != layer.file:  # HDF5 follows links to other files
            raise MapexError(
                f"{layer.file} holds nothing at {layer.name} but a link to {found.file.filename}, which is not "
                "followed. Fetch it again."
            )
        # Groups and types have neither; of a data set, HDF5 would read the pixels from whatever files these name.
        if getattr(found, "external", None) or getattr(found, "is_virtual", False):
            raise MapexError(
                f"{layer.file} holds no pixels at {layer.name} but the names of files that do, which are not followed. "
                "Fetch it again."
            )
        if found is None or getattr(found, "ndim", 0) != 3:
            shape = "nothing" if found is None else f"{found}"
            raise MapexError(
                f"{layer.file} must hold an image of rows, columns and bands at {layer.name}; found {shape}. "
                "Fetch it again."
            )
        return rearrange(found[...], "h w c -> c h w")
