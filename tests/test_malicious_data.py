"""Rasters of an attacker: whatever they point to, nobody is asked and no code is run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from mapex_lightning.data import raster
from mapex_lightning.data.scenes.scene import Scene
from mapex_lightning.data.tileset import GeoReference
from mapex_lightning.errors import MapexError
from tests import attacks
from tests.attacks import Place

THERE = GeoReference("EPSG:32632", (10.0, 0.0, 600_000.0, 0.0, -10.0, 5_000_000.0), (8, 8))

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


def spilled(place: Place) -> Path:
    """A raster of ERDAS Imagine whose pixels are in a file of the attacker's choice."""
    path = place.path / "evil.img"
    how = {"driver": "HFA", "width": 8, "height": 8, "count": 1, "dtype": "float32", "crs": "EPSG:32632"}
    with rasterio.open(path, "w", **how, transform=Affine(*THERE.transform), USE_SPILL="YES") as target:
        target.write(np.ones((1, 8, 8), dtype=np.float32))
    (place.path / "evil.ige").rename(place.path / "secret12")
    path.write_bytes(path.read_bytes().replace(b"evil.ige", b"secret12"))
    return path


def inside_hdf5(place: Place) -> Path:
    """A NetCDF file whose pixels are the bytes of another file."""
    path = place.path / "evil.nc"
    (place.path / "secret").write_bytes(np.ones(64, dtype=np.float32).tobytes())
    with h5py.File(path, "w") as target:
        axes = [target.create_dataset(name, data=10.0 * np.arange(8)) for name in "yx"]
        image = target.create_dataset("B", (8, 8), np.float32, external=[(str(place.path / "secret"), 0, 256)])
        for dimension, axis in enumerate(axes):
            axis.make_scale("yx"[dimension])
            image.dims[dimension].attach_scale(axis)
    return path


@pytest.mark.parametrize("make", [spilled, inside_hdf5])
def test_a_format_that_can_hold_its_pixels_elsewhere_is_not_read_of_a_stranger(
    make: Callable[[Place], Path], place: Place
) -> None:
    path = make(place)
    with raster.open_raster(path, trusted=True) as source:
        assert (source.read(1) == 1).all()
    with pytest.raises(MapexError, match=r"evil\.\w+ holds no pixels itself, or .*outside: true"):
        raster.open_raster(path)


@pytest.fixture
def masked(place: Place) -> Path:
    """A raster of which a mask beside it leaves the first row alone."""
    path = place.path / "masked.tif"
    raster.write(path, np.ones((1, 8, 8), dtype=np.float32), ("B",), THERE)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as target:
        target.write_mask(np.arange(64).reshape(8, 8) < 8)
    assert (place.path / "masked.tif.msk").exists()
    return path


def test_a_mask_beside_a_raster_counts(masked: Path) -> None:
    assert np.isfinite(raster.read(masked, ["B"])).sum() == 8


def test_a_mask_is_read_where_both_files_are_links_to_one_store(masked: Path, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    for file in (masked, masked.with_name("masked.tif.msk")):
        (links / file.name).symlink_to(file)
    assert np.isfinite(raster.read(links / masked.name, ["B"])).sum() == 8


@pytest.mark.parametrize("ending", [".msk", ".MSK"])
@pytest.mark.parametrize("kind", ["points", "leads", "leads nowhere", "is none", "is a service"])
def test_a_mask_that_is_elsewhere_is_not_followed(ending: str, kind: str, masked: Path, place: Place) -> None:
    mask = masked.with_name("masked.tif.msk")
    elsewhere = place.path / "elsewhere" / "secret.tif"
    elsewhere.parent.mkdir()
    mask.rename(elsewhere)
    evil = masked.with_name(f"masked.tif{ending}")
    match kind:
        case "points":
            evil.write_text(vrt(str(elsewhere)))
        case "leads":
            evil.symlink_to(elsewhere)
        case "leads nowhere":
            evil.symlink_to(place.path / "nowhere" / "secret.tif")
        case "is none":
            evil.write_text("no raster")
        case "is a service":
            evil.write_text(service(place.address))
    for read in (raster.read, raster.read_placed):
        with pytest.raises(
            MapexError, match=rf"masked\.tif\{ending} (holds no pixels itself|leads to|cannot be opened)"
        ):
            read(masked, ["B"])
    place.nothing_happened()


@pytest.mark.parametrize("ending", [".ovr", ".aux.xml", ".ovr.msk"])
def test_no_other_companion_is_followed(ending: str, masked: Path, place: Place) -> None:
    """A file that is waited for: who opened what the companion names would not come back."""
    os.mkfifo(place.path / "waiting.tif")
    named = f'<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{place.path}/waiting.tif</MDI></Metadata>'
    text = f"<PAMDataset>{named}</PAMDataset>" if ending == ".aux.xml" else vrt(str(place.path / "waiting.tif"))
    Path(f"{masked}{ending}").write_text(text)
    assert np.isfinite(raster.read_placed(masked, ["B"])[0]).sum() == 8
