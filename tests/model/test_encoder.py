"""Any sensors in any tile, and nothing depends on what is not there."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, combinations

import pytest
import torch
from einops import rearrange
from torch import Tensor

from mapex_lightning.model.auxiliary import Auxiliary, auxiliary_losses, total
from mapex_lightning.model.config import RouterMode
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.tiles import Tiles
from tests.builders import OPTICAL, RADAR, ROUTERS, census_of, config_of, encoder_of, observe, only, row, tiles_of

CONFIG = config_of()
SUBSETS = list(chain.from_iterable(combinations(CONFIG.names, n) for n in (1, 2, 3)))
POISONS = [torch.nan, torch.inf, 1e30, -3e38]


def mixed(poison: float = 0.0, dtype: torch.dtype = torch.float32) -> Tiles:
    """A tile for every non-empty subset of the sensors; the images of absent ones hold the poison."""
    tiles = tiles_of(CONFIG, len(SUBSETS), dtype=dtype)
    for name in CONFIG.names:
        tiles.present[name][:] = torch.tensor([name in subset for subset in SUBSETS])
        tiles.images[name][~tiles.present[name]] = poison
    return tiles


def gradients(encoder: Encoder, tiles: Tiles) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Loss and gradients of features and of all auxiliary losses."""
    encoder.zero_grad()
    tokens, assignments = encoder.encode(encoder.patchify(tiles))
    auxiliary = total(auxiliary_losses(assignments, len(CONFIG.names)), Auxiliary(1.0, 1.0, 1.1, 1.0, 1.0))
    loss = (tokens.pooled() - 1).square().sum() + encoder.feature_map(tiles).square().sum() + auxiliary
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in encoder.named_parameters()}


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("router", ROUTERS)
def test_absent_pixels_change_no_feature_no_loss_and_no_gradient(router: RouterMode, poison: float) -> None:
    encoder = encoder_of(config_of(router=router))
    clean, poisoned = mixed(), mixed(poison)
    assert torch.equal(encoder(clean).values, encoder(poisoned).values)
    (loss, wanted), (same, found) = gradients(encoder, clean), gradients(encoder, poisoned)
    assert loss.isfinite()
    assert torch.equal(loss, same)
    for name, gradient in found.items():
        expected = wanted[name]
        assert gradient is not None
        assert expected is not None
        assert gradient.isfinite().all()
        assert torch.equal(gradient, expected)


@pytest.mark.parametrize("router", ROUTERS)
def test_a_tiles_features_are_those_of_the_tile_alone(router: RouterMode) -> None:
    encoder, tiles = encoder_of(config_of(router=router), dtype=torch.float64), mixed(dtype=torch.float64)
    tokens = encoder(tiles)
    for index in range(len(SUBSETS)):
        alone = encoder(row(tiles, index))
        here = tokens.values[index, tokens.present[index]]
        torch.testing.assert_close(here, alone.values[0], rtol=1e-10, atol=1e-10)


def test_the_order_of_tiles_does_not_matter() -> None:
    encoder, tiles = encoder_of(CONFIG, dtype=torch.float64), mixed(dtype=torch.float64)
    order = torch.tensor([4, 2, 6, 0, 1, 5, 3])
    images, present = ({n: value[order] for n, value in part.items()} for part in (tiles.images, tiles.present))
    turned = Tiles(images, present)
    torch.testing.assert_close(encoder.pooled(turned), encoder.pooled(tiles)[order], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("names", SUBSETS)
def test_a_batch_may_lack_sensors_altogether(names: tuple[str, ...]) -> None:
    encoder, tiles = encoder_of(CONFIG), only(tiles_of(CONFIG), *names)
    loss, found = gradients(encoder, tiles)
    assert loss.isfinite()
    assert all(gradient is None or gradient.isfinite().all() for gradient in found.values())


def test_nodata_pixels_of_a_present_sensor_do_not_spread() -> None:
    encoder, tiles = encoder_of(CONFIG), tiles_of(CONFIG)
    tiles.images["s1"][0, :, :8, :8] = torch.nan
    tiles.images["s2"][1, 0, 3, 3] = torch.nan
    tokens = encoder(tiles)
    assert tokens.values[tokens.present].isfinite().all()
    assert encoder.pooled(tiles).isfinite().all()
    assert encoder.feature_map(tiles).isfinite().all()


def test_a_tile_of_nodata_alone_gives_zeros_and_harms_nobody() -> None:
    encoder, tiles = encoder_of(CONFIG, dtype=torch.float64), tiles_of(CONFIG, dtype=torch.float64)
    whole = encoder.pooled(tiles)
    for image in tiles.images.values():
        image[1] = torch.nan
    found = encoder.pooled(tiles)
    assert not found[1].any()
    torch.testing.assert_close(found[[0, 2, 3]], whole[[0, 2, 3]], rtol=1e-10, atol=1e-10)


def test_each_sensor_has_a_mean_of_its_own() -> None:
    encoder, tiles = encoder_of(CONFIG), mixed()
    tokens, found = encoder(tiles), encoder.pooled_by_modality(tiles)
    assert list(found) == list(CONFIG.names)
    for index, name in enumerate(CONFIG.names):
        absent = ~tiles.present[name]
        assert not found[name][absent].any()
        run = tokens.values[:, tokens.modality[0] == index].mean(1)
        torch.testing.assert_close(found[name][~absent], run[~absent])


def test_the_feature_map_has_the_finest_grid_and_the_mean_of_those_who_see_a_place() -> None:
    encoder, tiles = encoder_of(CONFIG), mixed()
    values, found = encoder(tiles).values, encoder.feature_map(tiles)
    assert found.shape == (len(SUBSETS), CONFIG.width, 2, 2)
    both = SUBSETS.index(("s2", "dem"))
    torch.testing.assert_close(found[both, :, 1, 0], (values[both, 6] + values[both, 8]) / 2)
    alone = SUBSETS.index(("dem",))
    torch.testing.assert_close(found[alone], values[alone, 8, :, None, None].expand(-1, 2, 2))


def test_a_place_has_the_features_of_the_patch_that_its_centre_lies_in() -> None:
    fine, coarse = replace(OPTICAL, gsd=3.0), replace(RADAR, gsd=10.0)  # 10 patches beside 3
    encoder = encoder_of(config_of((2,), sensors=(fine, coarse)))
    images = {"s2": torch.zeros(1, 3, 80, 80), "s1": torch.randn(1, 2, 24, 24) - 12}
    tiles = Tiles(images, {"s2": torch.tensor([False]), "s1": torch.tensor([True])})
    (values,) = rearrange(encoder(tiles).values[:, -9:], "1 (h w) d -> 1 d h w", h=3)
    centre = ((torch.arange(10) + 0.5) * 3 / 10).long()
    torch.testing.assert_close(encoder.feature_map(tiles)[0], values[:, centre][:, :, centre])


def test_the_feature_map_does_not_depend_on_the_order_of_the_tiles_sensors() -> None:
    encoder, tiles = encoder_of(CONFIG), mixed()
    assert torch.equal(encoder.feature_map(only(tiles, "dem", "s2", "s1")), encoder.feature_map(tiles))


def test_a_census_begins_at_nothing() -> None:
    encoder, tiles = encoder_of(CONFIG), tiles_of(CONFIG)
    observe(encoder, tiles)
    once = {block: census.clone() for block, census in census_of(encoder).items()}
    observe(encoder, tiles)
    assert all(torch.equal(census, once[block]) for block, census in census_of(encoder).items())


def test_a_census_that_is_not_whole_is_in_no_checkpoint_and_leaves_the_old_one() -> None:
    encoder, tiles = encoder_of(CONFIG), tiles_of(CONFIG)
    observe(encoder, tiles)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}

    def broken_off() -> None:
        with encoder.observe():
            for _ in range(2):
                encoder(tiles)
            assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_an_unobserved_pass_is_left_out_of_a_census() -> None:
    encoder, tiles = encoder_of(CONFIG), tiles_of(CONFIG)
    observe(encoder, tiles)
    once = {block: census.clone() for block, census in census_of(encoder).items()}
    with encoder.observe():
        encoder(tiles)
        with encoder.unobserved():
            encoder(tiles)
    encoder(tiles)
    assert all(torch.equal(census, once[block]) for block, census in census_of(encoder).items())


def test_observing_changes_no_output() -> None:
    encoder, tiles = encoder_of(CONFIG), tiles_of(CONFIG)
    before = encoder(tiles).values
    with encoder.observe():
        assert torch.equal(encoder(tiles).values, before)


def test_sealing_is_written_into_the_description() -> None:
    encoder = encoder_of(CONFIG)
    allowed = (((0,), (1,), (2,)), (), ((3,), (2,), (0, 1)))
    encoder.seal(allowed)
    assert encoder.config.allowed == allowed
    _, assignments = encoder.encode(encoder.patchify(tiles_of(CONFIG)))
    for block, chosen in assignments.items():
        pairs = zip(chosen.modality.tolist(), chosen.expert[:, 0].tolist(), strict=True)
        assert all(e in allowed[block][m] for m, e in pairs)


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_sealed_encoder_still_learns(top_k: int) -> None:
    encoder = encoder_of(config_of(top_k=top_k))
    encoder.seal((((0,), (1,), (1, 2)), (), ((3,), (2,), (0, 1))))
    loss, found = gradients(encoder, tiles_of(CONFIG))
    assert loss.isfinite()
    assert all(gradient is not None and gradient.isfinite().all() for gradient in found.values())


def test_stochastic_depth_acts_in_training_alone() -> None:
    encoder, tiles = Encoder(CONFIG, drop_path=0.9), tiles_of(CONFIG, 16)
    assert not torch.equal(encoder.train()(tiles).values, encoder(tiles).values)
    assert torch.equal(encoder.eval()(tiles).values, encoder(tiles).values)


def test_the_encoder_runs_and_learns_under_bf16_autocast() -> None:
    encoder, tiles = encoder_of(CONFIG), mixed()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = encoder.pooled(tiles).float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
