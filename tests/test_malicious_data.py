"""Rasters of an attacker: whatever they point to, nobody is asked and no code is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mapex_lightning.data import raster
from mapex_lightning.data.scenes.scene import Scene
from mapex_lightning.errors import MapexError
from tests import attacks
from tests.attacks import Place

SIZE = 'rasterXSize="8" rasterYSize="8"'


def vrt(source: str) -> str:
    return (
        f'<VRTDataset {SIZE}><VRTRasterBand dataType="Float32" band="1"><Description>B</Description><SimpleSource>'
        f'<SourceFilename relativeToVRT="0">{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )


def service(address: str) -> str:
    window = "<UpperLeftX>0</UpperLeftX><UpperLeftY>0</UpperLeftY><LowerRightX>8</LowerRightX>"
    window += "<LowerRightY>8</LowerRightY><SizeX>8</SizeX><SizeY>8</SizeY>"
    return (
        f'<GDAL_WMS><Service name="TMS"><ServerUrl>{address}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service>'
        f"<DataWindow>{window}</DataWindow><BandsCount>1</BandsCount></GDAL_WMS>"
    )


def python(place: Place) -> str:
    return (
        f'<VRTDataset {SIZE}><VRTRasterBand dataType="Float32" band="1" subClass="VRTDerivedRasterBand">'
        "<Description>B</Description><PixelFunctionLanguage>Python</PixelFunctionLanguage>"
        "<PixelFunctionType>evil.touch</PixelFunctionType></VRTRasterBand></VRTDataset>"
    )


RASTERS: dict[str, Callable[[Place], str]] = {
    "a file elsewhere": lambda place: vrt(f"/vsicurl/{place.address}/true.tif"),
    "a part of an archive elsewhere": lambda place: vrt(f"/vsizip//vsicurl/{place.address}/true.zip/true.tif"),
    "a stream": lambda place: vrt(f"/vsicurl_streaming/{place.address}/true.tif"),
    "a service": lambda place: service(place.address),
    "a service inside": lambda place: vrt(str(place.path / "service.xml")),
    "code": python,
}


def pixels_of_a_scene(path: Path) -> np.ndarray:
    scene = Scene([path], ["B"])
    return scene.read(["B"], scene.grid)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with attacks.planted(tmp_path, monkeypatch) as place:
        raster.write(tmp_path / "true.tif", np.zeros((1, 8, 8), dtype=np.float32), ("B",), None)
        (tmp_path / "service.xml").write_text(service(place.address))
        yield place


@pytest.mark.parametrize("kind", RASTERS)
@pytest.mark.parametrize("trusted", [False, True])
def test_a_raster_that_points_elsewhere_asks_nobody(kind: str, trusted: bool, place: Place) -> None:
    (place.path / "evil.tif").write_text(RASTERS[kind](place))
    with pytest.raises(MapexError, match=r"evil\.tif"):
        raster.read_placed(place.path / "evil.tif", ["B"], ["B"], trusted=trusted)
    place.nothing_happened()


@pytest.mark.parametrize("kind", RASTERS)
def test_a_scene_that_points_elsewhere_asks_nobody(kind: str, place: Place) -> None:
    (place.path / "evil.tif").write_text(RASTERS[kind](place))
    with pytest.raises(MapexError, match=r"evil\.tif"):
        pixels_of_a_scene(place.path / "evil.tif")
    place.nothing_happened()


@pytest.mark.parametrize("path", ["/vsicurl/ADDRESS/true.tif", "ADDRESS/true.tif", "WMS:ADDRESS", "/vsizip/true.zip"])
def test_a_path_of_a_raster_is_a_file_here(path: str, place: Place) -> None:
    with pytest.raises(MapexError, match="There is no raster"):
        raster.open_raster(Path(path.replace("ADDRESS", place.address)), trusted=True)
    place.nothing_happened()


def test_a_vrt_of_files_here_is_read_where_it_is_trusted(place: Place) -> None:
    (place.path / "here.vrt").write_text(vrt(str(place.path / "true.tif")))
    assert raster.read_placed(place.path / "here.vrt", ["B"], ["B"], trusted=True)[0].shape == (1, 8, 8)
