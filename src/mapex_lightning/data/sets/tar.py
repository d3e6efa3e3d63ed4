"""Where each sample of a tar shard lies, so that one can be read without those before it.

A tar has no table of contents. One pass over its headers makes one, which is kept beside the shard; from then on a
sample is one read at a known place, whatever the order. Names are taken apart by webdataset, the library that writes
such shards.
"""

from __future__ import annotations

import tarfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from mapex_lightning.data.extras import imported
from mapex_lightning.errors import MapexError
from mapex_lightning.files import write_whole

TABLES = 128
"""How many tables a process holds: those of the shards that an epoch is in, for every sensor. One is below 1 MB."""


@lru_cache(maxsize=TABLES)
def table_of(shard: Path, kept: Path, ending: str) -> np.ndarray:
    """The samples of a shard in stored order, each as key, offset and size in bytes.

    Args:
        shard: an uncompressed tar in the webdataset layout.
        kept: the file that keeps the table; it is made where it is missing or older than the shard.
        ending: what follows the key in a member's name, such as ``"zarr.zip"``; other members are left out.

    Returns:
        A structured array (samples,) of ``key`` (bytes), ``offset`` and ``size``.

    Raises:
        MapexError: the shard is damaged, ends early or has no such member, or the table cannot be kept.
    """
    found = _kept(shard, kept, whole=True)
    if found is None:
        found = _made(shard, ending)
        _keep(found, kept)
    return found[1:]


def length_of(shard: Path, kept: Path, ending: str) -> int:
    """The number of samples of a shard, without reading a table that is there.

    Raises:
        MapexError: as `table_of`.
    """
    found = _kept(shard, kept, whole=False)
    return len(table_of(shard, kept, ending)) if found is None else len(found) - 1


def read(shard: Path, offset: int, size: int) -> bytes:
    """The bytes of one sample.

    Raises:
        MapexError: the shard cannot be read or ends before the sample does.
    """
    try:
        with shard.open("rb", buffering=0) as file:
            file.seek(offset)
            found = file.read(size)
    except OSError as error:
        raise MapexError(f"Shard {shard} cannot be read ({error}).") from error
    if len(found) != size:
        raise MapexError(f"Shard {shard} ends inside a sample at byte {offset}; fetch it again.")
    return found


def _made(shard: Path, ending: str) -> np.ndarray:
    """The table after a row without a key, which says by size and time of change which shard it is of."""
    name = imported("webdataset.tariterators", "shards", f"Shard {shard}").base_plus_ext
    places: dict[str, tuple[int, int]] = {}
    last = "its first member"
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                last = member.name
                path, its_ending = name(member.name)
                if not member.isreg() or path is None or its_ending.lower() != ending:
                    continue
                key = path.rpartition("/")[2]
                if key in places:
                    raise MapexError(f"Shard {shard} holds sample {key} twice; write it again or leave it out.")
                places[key] = (member.offset_data, member.size)
        with shard.open("rb") as file:
            # A tar ends with blocks of zeros; one that was cut between two members has none.
            file.seek(-tarfile.BLOCKSIZE, 2)
            if any(file.read()):
                raise MapexError(f"Shard {shard} has no end: it stops after {last}. Fetch it again.")
        stat = shard.stat()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise MapexError(f"Shard {shard} is damaged or cut at or after {last} ({error}); fetch it again.") from error
    if not places:
        raise MapexError(f"Shard {shard} holds no member named KEY.{ending}; the last that it holds is {last}.")
    width = max(len(key.encode()) for key in places)
    rows = [("", stat.st_size, stat.st_mtime_ns), *((key, *place) for key, place in places.items())]
    row = np.dtype([("key", f"S{width}"), ("offset", np.int64), ("size", np.int64)])
    return np.array([(key.encode(), offset, size) for key, offset, size in rows], dtype=row)


def _kept(shard: Path, kept: Path, whole: bool) -> np.ndarray | None:
    """The table that is there, as `_made` makes it, if it is of this shard as it is now."""
    try:
        stat = shard.stat()
        found: np.ndarray = np.load(kept, mmap_mode=None if whole else "r", allow_pickle=False)
        of = (int(found[0]["offset"]), int(found[0]["size"]))
    except (OSError, EOFError, ValueError, IndexError):
        return None
    return found if of == (stat.st_size, stat.st_mtime_ns) else None


def _keep(table: np.ndarray, kept: Path) -> None:
    def write(beside: Path) -> None:
        with beside.open("wb") as file:
            np.save(file, table, allow_pickle=False)

    try:
        write_whole(kept, write)
    except MapexError as error:
        raise MapexError(
            f"{error} Tables of shards can be kept elsewhere: give the data set `index: FOLDER`."
        ) from error
