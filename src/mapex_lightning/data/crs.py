"""Coordinate systems, which georeferences hold as WKT."""

from __future__ import annotations

from functools import lru_cache

from rasterio.crs import CRS


@lru_cache(maxsize=64)
def parsed(crs: str) -> CRS:
    """A coordinate system from its WKT."""
    return CRS.from_wkt(crs)


def same_crs(one: str, other: str) -> bool:
    """Whether two coordinate systems, as WKT, are the same."""
    return one == other or bool(parsed(one) == parsed(other))


def name_of(crs: str) -> str:
    """A coordinate system, as WKT, in a word: its EPSG code or else its name."""
    code = parsed(crs).to_epsg()
    return f"EPSG:{code}" if code else crs.split('"')[1]
