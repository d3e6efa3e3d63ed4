"""The ablation study runs end to end on a handful of files in the published layouts, and goes on where it stopped."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from einops import reduce
from PIL import Image

from benchmarks.ablation import figures, tiles, variants
from benchmarks.ablation.__main__ import Study, table, trained
from mapex_lightning.data.sets.splits import split_of
from mapex_lightning.data.tileset import SPLITS
from mapex_lightning.errors import MapexError
from mapex_lightning.model import target
from mapex_lightning.model.decoder import Decoder
from mapex_lightning.model.patchify import patches
from mapex_lightning.model.reconstruction import reconstruct

CLASSES = ("Forest", "SeaLake")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of EuroSAT with a twin and a lone true-colour tile in every split, floods, unlabelled tiles."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 2)):
        for number in range(count):
            ombria(root, part, number, rng)
    (root / "testset").mkdir()
    for number in range(10):
        np.save(root / "testset" / f"test_{number}.npy", rng.integers(1, 4000, (64, 64, 12), dtype=np.uint16))
    for label, name in enumerate(CLASSES):
        for split in SPLITS:
            ours = [n for n in range(60) if split_of(f"{name}_{n}", 0) == split]
            for number in ours[:3]:
                raster(root / "EuroSAT_RGB" / name / f"{name}_{number}.jpg", 3, label, rng)
            raster(root / "EuroSAT_MS" / name / f"{name}_{ours[0]}.tif", 13, label, rng)
    return root


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of sixteen and one draw of labels: the study's own numbers are for figures, not for tests."""
    monkeypatch.setattr(tiles, "SHARES", dict.fromkeys(tiles.SHARES, 4))
    monkeypatch.setattr(figures, "DRAWS", 1)
    monkeypatch.setattr(figures, "MOST", 16)


def ombria(root: Path, part: str, number: int, rng: np.random.Generator) -> None:
    """One place as published: water is dark to both sensors; two crops are flooded, the others half and not at all."""
    water = np.zeros((64, 64), dtype=np.uint8)
    water[:32], water[32:, :16] = 255, 255
    radar = (rng.integers(100, 250, (64, 64)) // (1 + water // 64)).astype(np.uint8)
    colour = (rng.integers(50, 250, (64, 64, 3)) // (1 + water[..., None] // 64)).astype(np.uint8)
    for sensor, image in ((1, radar), (2, colour)):
        for moment, picture in (("AFTER", image), ("MASK", water)):
            folder = root / f"OmbriaS{sensor}" / part / moment
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"S{sensor}_{moment.lower()}_{number:04d}.png")


def raster(path: Path, count: int, label: int, rng: np.random.Generator) -> None:
    """One EuroSAT file, brighter for the second class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    driver, kind = ("GTiff", "uint16") if path.suffix == ".tif" else ("JPEG", "uint8")
    values = rng.integers(20 + 100 * label, 120 + 100 * label, (count, 64, 64)).astype(kind)
    with warnings.catch_warnings():  # these few files need no georeference, as the published JPEGs have none
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver=driver, count=count, height=64, width=64, dtype=kind) as target:
            target.write(values)


def test_a_study_measures_every_variant_once_and_goes_on_where_it_stopped(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study(data, tmp_path, steps=2)
    study.run(["default", "dense"], [0])
    assert set(study.results) == {"plain/2/0", "default/2/0", "dense/2/0"}
    for found in study.results.values():
        assert all(np.isfinite(value) for value in found.values())
    assert {"error/radar/test", "nmi/block 0", "health/mixtures", "land use, s2/10/test"} <= set(
        study.results["default/2/0"]
    )
    assert "health/mixtures" not in study.results["dense/2/0"]
    assert study.results["plain/2/0"]["water, radar/10/test"] == 1.0  # the water is dark
    assert "| default/2 | 1 |" in table(study.results)

    kept = json.loads((tmp_path / "results.json").read_text())
    capsys.readouterr()
    again = Study(data, tmp_path, steps=2)
    again.run(["default", "untrained"], [0])
    assert {key: again.results[key] for key in kept} == kept
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()][3:] == ["untrained/2/0"]


@pytest.mark.slow
def test_every_variant_trains(data: Path) -> None:
    collection = tiles.collect(data)
    sensors = tiles.sensors(collection)
    for name, variant in variants.VARIANTS.items():
        pair = trained(variant, collection, sensors, 1, 0)
        assert all(weight.isfinite().all() for weight in pair.parameters()), name


def test_a_variant_leaves_nothing_behind() -> None:
    before = (target.make_target, target.cell_side, Decoder.forward)
    everything = variants.Variant("", view="all", target="smooth", asked=0.5, waves=10.0, cell=1)
    with variants.in_force(everything):
        assert Decoder.forward is not before[-1]
    assert (target.make_target, target.cell_side, Decoder.forward) == before


@pytest.mark.parametrize("cell", [1, 2, 4, 8])
def test_radar_is_judged_in_one_measure_whatever_its_target(cell: int) -> None:
    level = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    coarse = reduce(level, "b c (h s) (w t) -> b c h w", "mean", s=cell, t=cell)
    found = figures.quarters(patches(coarse, 8 // cell))
    cells = reduce(level, "b c (h s) (w t) -> b 1 (h w)", "mean", s=4, t=4)
    expected = cells if cell <= 4 else cells.mean(-1, keepdim=True).expand_as(cells)
    torch.testing.assert_close(found, expected)


def test_a_few_of_the_patches_are_asked_for_and_only_those_count(data: Path) -> None:
    collection = tiles.collect(data)
    batch = tiles.parts(collection["train"], torch.Generator().manual_seed(0))[0]
    pair = variants.Pair(variants.VARIANTS["default"], tiles.sensors(collection))
    numbers = []
    for asked in (1.0, 0.25):
        with variants.in_force(variants.Variant("", asked=asked)):
            errors = reconstruct(pair.encoder, pair.decoder, batch, 0.25, torch.Generator().manual_seed(0)).errors
        numbers.append({name: float(error.number) for name, error in errors.items()})
        assert all(error.mean.isfinite() for error in errors.values())
    for name, number in numbers[1].items():
        assert 0.15 < number / numbers[0][name] < 0.35


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(MapexError, match="OmbriaS1"):
        tiles.collect(tmp_path)
