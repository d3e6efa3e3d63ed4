"""What a checkpoint is said to be is what is in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mapex_lightning.checkpoint import KEY, load, read, save, write
from mapex_lightning.errors import MapexError
from mapex_lightning.info import Info, inform, statistics
from mapex_lightning.modality import Modality
from mapex_lightning.model.config import RouterMode
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.mixture import CENSUS
from mapex_lightning.pruning import Policy, prune
from tests.attacks import saved
from tests.builders import ROUTERS, config_of, encoder_of, observe, seal, tiles_of


@pytest.fixture
def encoder() -> Encoder:
    """An encoder of three sensors that has seen tiles."""
    found = encoder_of(config_of((6, 0, 5)))
    observe(found, tiles_of(found.config, 16))
    return found


def told(encoder: Encoder, folder: Path) -> Info:
    """What is said of an encoder's checkpoint."""
    save(encoder, folder / "last.ckpt")
    return inform(folder / "last.ckpt")


def test_the_parts_of_the_encoder_add_up_to_its_parameters(encoder: Encoder, tmp_path: Path) -> None:
    found = told(encoder, tmp_path)
    assert sum(found.parameters.values()) == sum(p.numel() for p in encoder.parameters())
    experts = sum(p.numel() for m in encoder.mixtures.values() for p in m.experts.parameters())
    assert found.parameters["experts"] == experts
    assert "others" not in found.parameters


@pytest.mark.parametrize("low_rank", [0, 2])
@pytest.mark.parametrize("router", ROUTERS)
def test_every_weight_of_every_router_belongs_to_a_part(router: RouterMode, low_rank: int, tmp_path: Path) -> None:
    encoder = encoder_of(config_of(router=router, low_rank=low_rank))
    found = told(encoder, tmp_path)
    assert sum(found.parameters.values()) == sum(p.numel() for p in encoder.parameters())
    assert "others" not in found.parameters
    assert ("shared experts" in found.parameters) == (router == "grouped")
    assert ("low-rank experts" in found.parameters) == bool(low_rank)


def test_low_rank_experts_are_told_where_there_are_some(tmp_path: Path) -> None:
    found, plain = (told(encoder_of(config_of((3, 0), low_rank=rank)), tmp_path) for rank in (2, 0))
    assert found.parameters["low-rank experts"] == 2 * (2 * 2 * 16 * (3 + 4) + 3 * 4)  # blocks, (down + up) and gates
    assert "low-rank experts of rank 2" in found.table()
    assert "others" not in found.parameters
    assert "low-rank" not in plain.table()


def test_sensors_are_described_with_bands_units_and_statistics(encoder: Encoder, tmp_path: Path) -> None:
    found = told(encoder, tmp_path)
    assert [Modality.of(entry) for entry in found.plain()["modalities"]] == list(encoder.config.modalities)
    text = found.table()
    for modality in encoder.config.modalities:
        assert f"{modality.name}: {modality.gsd:g} m per pixel, {modality.unit}" in text
        for word in (*modality.bands, *(f"{value:g}" for value in (*modality.mean, *modality.std))):
            assert word in text


def test_the_plain_types_are_strict_json(encoder: Encoder, tmp_path: Path) -> None:
    plain = told(encoder, tmp_path).plain()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_an_encoder_that_has_seen_nothing_is_described_too(tmp_path: Path) -> None:
    found = told(encoder_of(config_of()), tmp_path)
    assert found.usage == {}
    assert found.alone == {}
    assert json.dumps(found.plain(), allow_nan=False)
    assert "pruned to" not in found.table()


def test_an_encoder_without_mixtures_is_described_too(tmp_path: Path) -> None:
    found = told(encoder_of(config_of((0, 0))), tmp_path)
    assert "all of them dense" in found.table()
    assert [block["experts"] for block in found.plain()["blocks"]] == [0, 0]


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("sensor", ["s1", "s2", "dem"])
def test_what_a_sensor_needs_is_what_pruning_to_it_keeps(
    sensor: str, sealed: bool, encoder: Encoder, tmp_path: Path
) -> None:
    if sealed:
        seal(encoder, 0.9)
    found = told(encoder, tmp_path)
    _, report = prune(read(tmp_path / "last.ckpt"), [sensor])
    assert found.alone[sensor].experts == report.experts
    assert found.alone[sensor].parameters == report.parameters[1]


@pytest.mark.parametrize("policy", [None, Policy("top", 1, fallback="merged"), Policy("size", 0.8)])
def test_a_pruned_file_is_what_pruning_reported(policy: Policy | None, encoder: Encoder, tmp_path: Path) -> None:
    save(encoder, tmp_path / "last.ckpt")
    pruned, report = prune(read(tmp_path / "last.ckpt"), ["s1", "dem"], policy)
    write(pruned, tmp_path / "pruned.ckpt")
    found = inform(tmp_path / "pruned.ckpt")
    assert sum(found.parameters.values()) == report.parameters[1]
    assert found.bytes == report.bytes[1]
    assert found.description.encoder.names == report.keep
    blocks = {b["block"]: b["experts"] for b in found.plain()["blocks"] if b["experts"]}
    assert blocks == {block: len(kept) for block, kept in report.experts.items()}
    assert found.description.lineage == tuple(pruned[KEY]["lineage"])
    assert found.size == (tmp_path / "pruned.ckpt").stat().st_size


def test_hard_and_soft_usage_and_dead_experts_are_those_of_the_census(encoder: Encoder, tmp_path: Path) -> None:
    census = encoder.mixtures[0].census
    census.zero_()
    census[CENSUS.index("tokens"), :, 1] = 4
    census[CENSUS.index("tokens"), 0, 3] = 12
    census[CENSUS.index("contribution"), :, 1] = 1
    census[CENSUS.index("probability"), :, :6] = 2
    found = told(encoder, tmp_path)
    assert found.dead(0) == (0, 2, 4, 5)
    assert found.usage[0]["hard"]["share"][0].tolist() == [0, 0.25, 0, 0.75, 0, 0]
    assert found.usage[0]["soft"]["nmi"] == pytest.approx(0, abs=1e-12)
    assert found.usage[0]["hard"]["nmi"] > 0.1
    assert found.plain()["blocks"][0]["dead"] == [0, 2, 4, 5]


def test_a_sensor_that_no_tile_had_is_told_by_a_dash(encoder: Encoder, tmp_path: Path) -> None:
    for mixture in encoder.mixtures.values():
        mixture.census[:, 1] = 0
    found = told(encoder, tmp_path)
    assert set(found.alone) == {"s1", "dem"}
    rows = found.blocks()
    assert [row[rows[0].index("s2")] for row in rows[1:]] == ["\N{EN DASH}", "", "\N{EN DASH}"]


def test_a_file_whose_census_has_no_probabilities_says_so(encoder: Encoder, tmp_path: Path) -> None:
    for mixture in encoder.mixtures.values():
        mixture.census[CENSUS.index("probability")] = 0
    found = told(encoder, tmp_path)
    assert set(found.usage[0]) == {"hard"}
    assert "\N{EN DASH}" in found.table()


def test_a_file_that_does_not_fit_its_description_gets_a_sentence(encoder: Encoder, tmp_path: Path) -> None:
    save(encoder, tmp_path / "last.ckpt")
    altered = read(tmp_path / "last.ckpt")
    del altered["state_dict"]["encoder.blocks.2.mixture.census"]
    saved(altered, tmp_path / "altered.ckpt")
    with pytest.raises(MapexError, match=r"are missing, .* such as blocks\.2\.mixture\.census"):
        inform(tmp_path / "altered.ckpt")


def test_reading_what_a_file_is_leaves_it_alone(encoder: Encoder, tmp_path: Path) -> None:
    told(encoder, tmp_path)
    before = (tmp_path / "last.ckpt").read_bytes()
    inform(tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert torch.equal(load(tmp_path / "last.ckpt").mixtures[0].census, encoder.mixtures[0].census)


def test_many_bands_are_told_a_few_at_a_time() -> None:
    many = Modality("hyper", tuple(f"b{i}" for i in range(30)), 30.0, "reflectance", (0.1,) * 30, (0.2,) * 30)
    found = statistics(many)
    assert [len(rows[0]) - 1 for rows in found] == [12, 12, 6]
    assert [band for rows in found for band in rows[0][1:]] == list(many.bands)
