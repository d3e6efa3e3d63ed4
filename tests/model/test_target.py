"""What is predicted, and how wrong it was: nothing that is not there counts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mapex_lightning.modality import Modality
from mapex_lightning.model.patchify import patches, standardise
from mapex_lightning.model.target import (
    Error,
    assemble,
    cell_side,
    make_target,
    masked_error,
    mean_over_modalities,
    target_size,
)
from tests.builders import OPTICAL, RADAR, SENSORS, config_of, steady, tiles_of

IMAGES = tiles_of(config_of()).images


@pytest.mark.parametrize("modality", SENSORS, ids=lambda modality: modality.name)
@pytest.mark.parametrize("patch", [1, 2, 4, 8])
def test_a_perfect_prediction_becomes_the_image_again(modality: Modality, patch: int) -> None:
    image = IMAGES[modality.name].double()
    target = make_target(image, modality, patch)
    found = assemble(target.values, target, modality, patch, image.shape[2] // patch)
    cell = cell_side(modality, patch)
    smooth = torch.nn.functional.avg_pool2d(image, cell).repeat_interleave(cell, 2).repeat_interleave(cell, 3)
    torch.testing.assert_close(found, smooth)


@pytest.mark.parametrize("modality", SENSORS, ids=lambda modality: modality.name)
@pytest.mark.parametrize("patch", [1, 3, 4, 5, 7, 8])
def test_a_target_has_its_size_whatever_the_patch(modality: Modality, patch: int) -> None:
    image = torch.zeros(2, len(modality.bands), 3 * patch, 2 * patch)
    target = make_target(image, modality, patch)
    assert target.values.shape == target.valid.shape == (2, 6, target_size(modality, patch))


def test_each_patch_has_mean_zero_and_deviation_one() -> None:
    values = make_target(IMAGES["s2"].double(), OPTICAL, 8).values
    torch.testing.assert_close(values.mean(-1), torch.zeros(4, 4, dtype=torch.float64))
    torch.testing.assert_close(values.var(-1, correction=0), torch.ones(4, 4, dtype=torch.float64), atol=1e-3, rtol=0)


def test_a_flat_patch_has_a_target_of_zero() -> None:
    assert not make_target(torch.full((1, 3, 8, 8), 700.0), OPTICAL, 8).values.isnan().any()
    assert make_target(torch.full((1, 3, 8, 8), 500.0), OPTICAL, 8).values.isfinite().all()


def test_speckle_is_smoothed_and_keeps_its_level() -> None:
    target = make_target(IMAGES["s1"].double(), RADAR, 8)
    cells = patches(torch.nn.functional.avg_pool2d(standardise(IMAGES["s1"].double(), RADAR), 4), 2)
    torch.testing.assert_close(target.values, cells)
    assert not target.mean.any()
    assert target.scale.eq(1).all()


def test_a_smoothed_cell_is_the_mean_of_its_valid_pixels() -> None:
    image = IMAGES["s1"].double().clone()
    image[0, 0, :4, :2] = torch.nan
    found = make_target(image, RADAR, 8)
    torch.testing.assert_close(found.values[0, 0, 0], standardise(image, RADAR)[0, 0, :4, 2:4].mean())
    assert found.valid.all()


@steady
@given(st.sampled_from(SENSORS), st.sampled_from([torch.nan, torch.inf, -torch.inf]), st.integers(0, 99))
def test_nodata_never_counts(modality: Modality, bad: float, seed: int) -> None:
    image = IMAGES[modality.name].clone()
    generator = torch.Generator().manual_seed(seed)
    holes = torch.rand(image.shape, generator=generator) < 0.5
    image[holes] = bad
    target = make_target(image, modality, 8)
    prediction = torch.randn(target.values.shape, generator=generator, requires_grad=True)
    error = masked_error(prediction, target, torch.ones(target.values.shape[:2], dtype=torch.bool))
    error.total.backward()
    assert target.values.isfinite().all()
    assert error.total.isfinite()
    assert error.number == target.valid.sum()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    assert not prediction.grad[~target.valid].any()
    if not modality.speckle:
        assert torch.equal(target.valid, ~patches(holes, 8))


def test_nodata_does_not_change_the_statistics_of_its_patch() -> None:
    image = IMAGES["s2"].double().clone()
    image[0, :, :4, :8] = torch.nan
    target = make_target(image, OPTICAL, 8)
    rest = standardise(image, OPTICAL)[0, :, 4:8, :8]
    torch.testing.assert_close(target.mean[0, 0, 0], rest.mean())
    torch.testing.assert_close(target.scale[0, 0, 0], rest.std(correction=0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("modality", SENSORS, ids=lambda modality: modality.name)
@pytest.mark.parametrize("poison", [torch.nan, 1e30, 3e38])
def test_pixels_of_patches_that_are_not_hidden_do_not_matter(modality: Modality, poison: float) -> None:
    image = IMAGES[modality.name].clone()
    hidden = torch.tensor([True, False, True, True])[:, None].expand(4, (image.shape[2] // 8) ** 2)
    prediction = torch.zeros(*hidden.shape, target_size(modality, 8), requires_grad=True)
    clean = masked_error(prediction, make_target(image, modality, 8), hidden)
    image[1] = poison
    found = masked_error(prediction, make_target(image, modality, 8), hidden)
    found.total.backward()
    assert torch.equal(found.total, clean.total)
    assert torch.equal(found.number, clean.number)
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()


def test_where_nothing_is_hidden_the_error_is_zero_and_can_be_trained_on() -> None:
    target = make_target(IMAGES["s2"], OPTICAL, 8)
    prediction = torch.ones_like(target.values, requires_grad=True)
    error = masked_error(prediction, target, torch.zeros(4, 4, dtype=torch.bool))
    error.mean.backward()
    assert error.mean == 0
    assert prediction.grad is not None
    assert not prediction.grad.any()


def test_errors_of_batches_add_up() -> None:
    target = make_target(IMAGES["s2"].double(), OPTICAL, 8)
    prediction, hidden = torch.zeros_like(target.values), torch.rand(4, 4) < 0.5
    whole = masked_error(prediction, target, hidden)
    parts = [
        masked_error(prediction[part], type(target)(*(field[part] for field in target)), hidden[part])
        for part in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(whole.total, parts[0].total + parts[1].total)
    assert whole.number == parts[0].number + parts[1].number


def error_of(total: float, number: float) -> Error:
    return Error(torch.tensor(total), torch.tensor(number))


def test_every_sensor_has_equal_weight_however_many_pixels_it_has() -> None:
    assert mean_over_modalities({"s1": error_of(2.0, 1.0), "s2": error_of(400.0, 100.0)}) == 3


def test_a_sensor_of_which_nothing_was_hidden_does_not_count() -> None:
    assert mean_over_modalities({"s1": error_of(2.0, 1.0), "s2": error_of(0.0, 0.0)}) == 2
    assert mean_over_modalities({"s2": error_of(0.0, 0.0)}) == 0
