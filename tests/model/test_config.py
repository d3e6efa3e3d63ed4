"""A description of plain types determines an encoder, and contradictions are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapex_lightning.errors import MapexError
from mapex_lightning.model.config import PRESETS, EncoderConfig, RouterMode, preset
from tests.builders import ROUTERS, SENSORS, config_of, steady

configs = st.builds(
    config_of,
    experts=st.lists(st.integers(0, 7), min_size=1, max_size=4).map(tuple),
    sensors=st.permutations(SENSORS).map(tuple),
    router=st.sampled_from(ROUTERS),
    top_k=st.integers(1, 3),
    width=st.sampled_from([4, 16, 32]),
)


@steady
@given(configs)
def test_a_description_survives_json(config: EncoderConfig) -> None:
    assert EncoderConfig.of(json.loads(json.dumps(config.describe()))) == config


def test_a_description_with_a_stray_key_is_refused_by_name() -> None:
    with pytest.raises(MapexError, match="differs from what this version knows: colour"):
        EncoderConfig.of({**config_of().describe(), "colour": 1})


@pytest.mark.parametrize("key", list(config_of().describe()))
def test_a_description_without_a_key_is_refused_by_name(key: str) -> None:
    description = config_of().describe()
    del description[key]
    with pytest.raises(MapexError, match=f": {key}"):
        EncoderConfig.of(description)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 18}, "multiple of 4"),
        ({"heads": 3}, "heads=3"),
        ({"experts": ()}, "a block or more"),
        ({"experts": (2, -1)}, "no negative number"),
        ({"top_k": 0}, "top_k"),
        ({"patch": 0}, "patch"),
        ({"router": "fre"}, "Did you mean 'free'"),
        ({"allowed": (((0,), (1,), (2,)),)}, r"one entry per block \(3\)"),
        ({"allowed": (((0,), (1,), (3,)), (), ((0,), (1,), (2,)))}, "block 0"),
        ({"allowed": (((0,), (1,), ()), (), ((0,), (1,), (2,)))}, "block 0"),
        ({"allowed": (((0,), (1,), (2,)), (), ((0,), (1,)))}, "block 2"),
        ({"allowed": ((), (), ((0,), (1,), (2,)))}, "block 0"),
    ],
)
def test_a_contradiction_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(MapexError, match=words):
        replace(config_of(), **change)


def test_an_unknown_sensor_is_refused_with_those_it_reads() -> None:
    with pytest.raises(MapexError, match=r"'s3' in this encoder.*Known: dem, s1, s2"):
        config_of().modality("s3")


def test_mixtures_are_the_blocks_with_experts() -> None:
    assert config_of((3, 0, 4)).mixtures == (0, 2)
    assert config_of((0, 0)).mixtures == ()


def test_only_stored_sets_make_an_encoder_sealed() -> None:
    assert not config_of().sealed
    assert config_of(allowed=(((0,), (1,), (2,)), (), ((0,), (1,), (2,)))).sealed


@pytest.mark.parametrize("name", PRESETS)
def test_every_second_block_of_a_preset_is_a_mixture_from_the_first_on(name: str) -> None:
    config = preset(name, SENSORS)
    assert config.mixtures == tuple(range(0, config.depth, 2))


def test_a_preset_without_mixtures_is_the_dense_twin() -> None:
    assert preset("nano", SENSORS, every=0) == replace(preset("nano", SENSORS), experts=(0,) * 6)


def test_many_sensors_get_two_experts_each() -> None:
    many = tuple(replace(SENSORS[0], name=f"m{n}") for n in range(5))
    assert max(preset("nano", many).experts) == 10
    assert max(preset("nano", SENSORS).experts) == 6


def test_the_finest_sensor_sets_the_step() -> None:
    assert preset("nano", SENSORS, patch=8).step == 80.0


@pytest.mark.parametrize("experts", [1, 2, 3, 6, 7])
def test_groups_share_all_experts_out_and_leave_no_sensor_without(experts: int) -> None:
    config = preset("nano", SENSORS, experts=experts, router="grouped")
    for block in config.mixtures:
        rows = config.allowed[block]
        assert all(rows)
        assert {e for row in rows for e in row} == set(range(experts))
        assert experts < len(SENSORS) or sum(map(len, rows)) == experts


@pytest.mark.parametrize(("experts", "collaborative"), [(4, 1), (6, 2), (6, 3), (9, 1)])
def test_collaborative_experts_are_everybodys_and_the_others_each_belong_to_one_sensor(
    experts: int, collaborative: int
) -> None:
    config = preset("nano", SENSORS, experts=experts, router="grouped", collaborative=collaborative)
    everybodys = set(range(experts - collaborative, experts))
    for block in config.mixtures:
        own = [set(row) - everybodys for row in config.allowed[block]]
        assert all(everybodys < set(row) for row in config.allowed[block])
        assert sum(map(len, own)) == len(set.union(*own)) == experts - collaborative


@pytest.mark.parametrize("collaborative", [-1, 4, 6])
def test_collaborative_experts_leave_every_sensor_one_of_its_own(collaborative: int) -> None:
    with pytest.raises(MapexError, match=f"it is at most 3; found {collaborative}"):
        preset("nano", SENSORS, experts=6, router="grouped", collaborative=collaborative)


def test_only_a_grouped_router_has_collaborative_experts() -> None:
    with pytest.raises(MapexError, match="found router conditioned"):
        preset("nano", SENSORS, collaborative=2)


@pytest.mark.parametrize("router", ROUTERS)
def test_only_grouped_encoders_are_born_sealed_and_have_a_shared_expert(router: RouterMode) -> None:
    config = preset("nano", SENSORS, router=router)
    assert config.sealed == config.shared == (router == "grouped")


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(MapexError, match="Did you mean 'small'"):
        preset("smal", SENSORS)


@pytest.mark.parametrize("name", ["values", "keys", "type", "forward", "training"])
def test_a_name_that_torch_keeps_for_itself_is_refused(name: str) -> None:
    with pytest.raises(MapexError, match=f"'{name}'.*{name}_band"):
        config_of(sensors=(replace(SENSORS[0], name=name),))


@pytest.mark.parametrize("name", ["s1", "value", "band", "lwir"])
def test_any_other_plain_word_names_a_sensor(name: str) -> None:
    assert config_of(sensors=(replace(SENSORS[0], name=name),)).names == (name,)
