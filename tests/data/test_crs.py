"""Coordinate systems by their WKT: which are the same, and what people call them."""

from __future__ import annotations

import rasterio

from mapex_lightning.data.crs import name_of, parsed, same_crs

UTM = rasterio.CRS.from_epsg(32632).to_wkt()
GARDEN = 'LOCAL_CS["the garden",UNIT["metre",1]]'


def test_names_are_codes_where_there_is_one() -> None:
    assert name_of(UTM) == "EPSG:32632"
    assert name_of(GARDEN) == "the garden"


def test_a_system_is_the_same_however_it_is_written() -> None:
    assert same_crs(UTM, parsed(UTM).to_wkt(version="WKT2_2019"))
    assert not same_crs(UTM, rasterio.CRS.from_epsg(32633).to_wkt())
