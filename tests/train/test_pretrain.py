"""Masked reconstruction learns from what is there, and only from that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor

from mapex_lightning.checkpoint import save
from mapex_lightning.data.module import TileData
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.model.auxiliary import auxiliary_losses, total
from mapex_lightning.model.config import RouterMode
from mapex_lightning.model.reconstruction import Reconstruction, reconstruct
from mapex_lightning.model.target import mean_over_modalities
from mapex_lightning.pruning import sealing
from mapex_lightning.tiles import Tile, Tiles
from mapex_lightning.train.optim import Optimiser
from mapex_lightning.train.pretrain import Pretrain
from tests.workshop import trainer_of

SENSORS: list[str | Modality] = ["s1", "s2", "dem"]


class Unvalidated(Synthetic):
    """Synthetic tiles whose elevation is there in training alone."""

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        lost = "" if key.startswith("train") else "dem"
        return super().read(key, [modality for modality in modalities if modality.name != lost])


def tiles_in(missing: float = 0.0, kind: type[Synthetic] = Synthetic, train: int = 4) -> TileData:
    """Up to four tiles to train on, in one step, and six to validate on."""
    source = kind(train=train, val=6, test=0, size=16, missing=missing)
    return TileData([source], SENSORS, size=16, batch_size=4, augment=False)


def model_of(**settings: Any) -> Pretrain:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Pretrain("nano", SENSORS, **settings)


def masked(model: Pretrain, tiles: Tiles, seed: int = 0) -> Reconstruction:
    generator = torch.Generator().manual_seed(seed)
    return reconstruct(model.encoder, model.decoder, tiles, model.visible, generator)


def gradients(model: Pretrain, tiles: Tiles) -> tuple[Tensor, dict[str, Tensor]]:
    """The whole training loss of a batch and what it asks of every weight."""
    model.zero_grad()
    found = masked(model, tiles)
    loss = mean_over_modalities(found.errors)
    loss = loss + total(auxiliary_losses(found.assignments, len(SENSORS)), model.auxiliary)
    loss.backward()
    return loss.detach(), grads_of(model)


def grads_of(model: Pretrain) -> dict[str, Tensor]:
    """The gradient of every weight; each has one."""
    found = {}
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        found[name] = weight.grad.clone()
    return found


def test_what_lies_in_absent_images_changes_neither_loss_nor_gradients() -> None:
    tiles = tiles_in(missing=0.5).examples(6)
    assert not all(here.all() for here in tiles.present.values())
    poisoned = {
        n: image.masked_fill(~tiles.present[n][:, None, None, None], torch.nan) for n, image in tiles.images.items()
    }
    model = model_of()
    clean_loss, clean = gradients(model, tiles)
    loss, found = gradients(model, tiles._replace(images=poisoned))
    assert loss.isfinite()
    assert torch.equal(loss, clean_loss)
    for name, gradient in found.items():
        assert torch.equal(gradient, clean[name]), name


def test_a_tile_of_nodata_alone_is_passed_over_and_leaves_the_others_as_they_were() -> None:
    tiles = tiles_in().examples(4)
    model = model_of()
    before = masked(model, tiles)
    for image in tiles.images.values():
        image[0] = torch.nan
    loss, found = gradients(model, tiles)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in found.values())
    after = masked(model, tiles)
    assert not after.visible[0].any()
    for name, prediction in after.predictions.items():
        torch.testing.assert_close(prediction[1:], before.predictions[name][1:])


def test_a_batch_of_nodata_alone_gets_a_sentence() -> None:
    tiles = tiles_in().examples(2)
    for image in tiles.images.values():
        image.fill_(torch.nan)
    with pytest.raises(MapexError, match="no valid pixel; check nodata"):
        masked(model_of(), tiles)


def test_the_error_is_that_of_hidden_patches_alone() -> None:
    found = masked(model_of(), tiles_in().examples(4))
    start = 0
    for name, prediction in found.predictions.items():
        hidden = ~found.visible[:, start : start + prediction.shape[1]]
        start += prediction.shape[1]
        wanted = (prediction - found.targets[name].values)[hidden].square().mean()
        torch.testing.assert_close(found.errors[name].mean, wanted)


def test_a_fixed_batch_is_learned() -> None:
    data, model = tiles_in(), model_of(seal=None)
    tiles = data.examples(4, "train")

    @torch.no_grad()
    def error() -> float:
        return sum(float(mean_over_modalities(masked(model, tiles, seed).errors)) for seed in range(4))

    before = error()
    trainer_of(max_epochs=30, limit_val_batches=0).fit(model, datamodule=data)
    assert error() < 0.8 * before


def test_validating_twice_gives_the_same_figures() -> None:
    data, model, trainer = tiles_in(missing=0.3), model_of(), trainer_of()
    first = trainer.validate(model, datamodule=data, verbose=False)
    torch.rand(5)
    assert trainer.validate(model, datamodule=data, verbose=False) == first
    assert first[0]["val/loss"] > 0


def test_validation_tells_the_loss_of_every_sensor_and_the_figures_of_every_mixture() -> None:
    data, model, trainer = tiles_in(), model_of(), trainer_of()
    figures = trainer.validate(model, datamodule=data, verbose=False)[0]
    losses = [figures[f"val/loss/{name}"] for name in ("s1", "s2", "dem")]
    assert figures["val/loss"] == pytest.approx(sum(losses) / 3, rel=1e-5)
    for block in (0, 2, 4):
        assert 0 <= figures[f"routing/nmi/block{block}"] <= 1
        assert 1 <= figures[f"routing/effective/dem/block{block}"] <= 6


def test_the_census_of_a_validation_counts_every_token_once_and_no_masked_pass() -> None:
    data, model = tiles_in(missing=0.3), model_of()
    trainer_of().validate(model, datamodule=data, verbose=False)
    present = data.examples(6).present
    tokens = [4 * int(present[name].sum()) for name in ("s1", "s2", "dem")]
    assert len(set(tokens)) > 1
    for mixture in model.encoder.mixtures.values():
        assert mixture.census[0].sum(1).tolist() == tokens


class Losses(Callback):
    """The loss of each step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.found.append(float(outputs["loss"]))


def test_masks_are_new_at_every_step_and_the_same_in_a_run_of_the_same_seed() -> None:
    runs = []
    for seed in (1, 1, 2):
        model, watch = model_of(optimiser=Optimiser(lr=0.0), seed=seed), Losses()
        trainer_of(max_epochs=3, limit_val_batches=0, callbacks=[watch]).fit(model, datamodule=tiles_in(train=1))
        runs.append(watch.found)
        torch.rand(5)
    assert runs[0] == runs[1] != runs[2]
    assert len(set(runs[0])) == 3


class Sealed(Callback):
    """Whether the encoder was sealed when each epoch began."""

    def __init__(self) -> None:
        self.found: list[bool] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Pretrain)
        self.found.append(pl_module.encoder.config.sealed)


def test_experts_are_sealed_after_their_share_of_the_run_and_training_goes_on_inside_the_sets() -> None:
    data, model, watch = tiles_in(), model_of(seal=0.5), Sealed()
    trainer_of(max_epochs=4, callbacks=[watch]).fit(model, datamodule=data)
    assert watch.found == [False, False, True, True]
    tiles = data.examples(4, "train")
    for block, assignment in masked(model, tiles).assignments.items():
        allowed = model.encoder.config.allowed[block]
        used = zip(assignment.modality.tolist(), assignment.expert[:, 0].tolist(), strict=True)
        assert all(expert in allowed[modality] for modality, expert in used)
    assert any(len(experts) < 6 for rows in model.encoder.config.allowed for experts in rows)
    loss, found = gradients(model, tiles)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in found.values())


@pytest.mark.parametrize(
    "settings", [{"max_steps": 3, "max_epochs": 9}, {"max_epochs": 3, "check_val_every_n_epoch": 2}]
)
def test_a_run_that_ends_without_a_validation_is_sealed_by_the_latest_census(settings: dict[str, int]) -> None:
    steps = 2 if "max_steps" in settings else 1
    model, trainer = model_of(), trainer_of(**settings, num_sanity_val_steps=2)
    trainer.fit(model, datamodule=tiles_in(train=4 * steps))
    assert trainer.global_step == 3
    census = {block: mixture.census for block, mixture in model.encoder.mixtures.items()}
    assert model.encoder.config.allowed == sealing(replace(model.encoder.config, allowed=()), census) != ()


def test_a_run_that_is_stopped_early_says_that_it_ends_unsealed() -> None:
    model, early = model_of(), EarlyStopping("val/loss", patience=1, min_delta=1e9)
    trainer = trainer_of(max_epochs=50, callbacks=[early])
    with pytest.warns(UserWarning, match="The experts are not sealed: the run was stopped early"):
        trainer.fit(model, datamodule=tiles_in())
    assert trainer.current_epoch == 2
    assert not model.encoder.config.sealed


def test_a_run_without_any_validation_says_that_it_ends_unsealed(tmp_path: Path) -> None:
    model = model_of()
    kept = ModelCheckpoint(tmp_path, save_last=True)
    trainer = trainer_of(max_steps=1, max_epochs=9, num_sanity_val_steps=2, enable_checkpointing=True, callbacks=[kept])
    with pytest.warns(UserWarning, match="The experts are not sealed: the run had no validation"):
        trainer.fit(model, datamodule=tiles_in(train=8))
    assert not any(mixture.census.any() for mixture in model.encoder.mixtures.values())  # nor that of the sanity check
    assert not model.encoder.config.sealed


def test_a_run_that_a_time_limit_ends_is_not_sealed() -> None:
    model = model_of()
    trainer_of(max_epochs=9, max_time={"seconds": 0}).fit(model, datamodule=tiles_in())
    assert not model.encoder.config.sealed


def test_an_encoder_that_is_not_to_be_sealed_is_not() -> None:
    model = model_of(seal=None)
    trainer_of(max_epochs=1).fit(model, datamodule=tiles_in())
    assert not model.encoder.config.sealed


def test_a_sensor_without_validation_tiles_is_warned_of_and_ends_no_run() -> None:
    model, trainer = model_of(seal=0.5), trainer_of(max_epochs=2)
    with pytest.warns(UserWarning, match="not sealed: The census of block 0 has seen no token of dem"):
        trainer.fit(model, datamodule=tiles_in(kind=Unvalidated))
    assert not model.encoder.config.sealed
    assert trainer.global_step == 2
    assert "val/loss/dem" not in trainer.callback_metrics
    assert trainer.callback_metrics["val/loss"].isfinite()


def test_the_dense_twin_trains_and_has_nothing_to_route_or_seal() -> None:
    data, model, trainer = tiles_in(), model_of(every=0), trainer_of(max_epochs=1)
    trainer.fit(model, datamodule=data)
    loss, found = gradients(model, data.examples(4, "train"))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert trainer.callback_metrics["val/loss"].isfinite()
    assert model.routing == {}
    assert not model.encoder.config.sealed
    assert not any(name.startswith("routing/") for name in trainer.callback_metrics)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("router", get_args(RouterMode))
def test_every_router_trains_a_step_with_a_gradient_for_every_weight(router: RouterMode, top_k: int) -> None:
    model = model_of(router=router, top_k=top_k)
    trainer_of(max_epochs=1, limit_val_batches=0).fit(model, datamodule=tiles_in(missing=0.3))
    found = grads_of(model)
    assert all(gradient.isfinite().all() for gradient in found.values())
    for part in ("patchify.embed.s1.weight", "blocks.0.mixture.router.weight", "blocks.0.mixture.experts.outer"):
        assert found[f"encoder.{part}"].any(), part


def test_only_the_own_weights_of_sensors_without_data_are_frozen_and_all_else_gets_a_gradient(tmp_path: Path) -> None:
    save(model_of().encoder, tmp_path / "encoder.ckpt")
    model = Pretrain(str(tmp_path / "encoder.ckpt"), ["s1", "dem"])
    data = TileData([Synthetic(train=4, val=4, test=0, size=16)], ["s1", "dem"], size=16, batch_size=4)
    trainer_of(limit_val_batches=0).fit(model, datamodule=data)
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    places = ("encoder.patchify.embed", "encoder.patchify.norm", "decoder.heads")
    assert frozen == {f"{place}.s2.{kind}" for place in places for kind in ("weight", "bias")}
    assert {name for name, weight in model.named_parameters() if weight.grad is None} == frozen


def test_a_sensor_that_the_encoder_to_go_on_from_does_not_read_gets_a_sentence(tmp_path: Path) -> None:
    save(model_of().encoder, tmp_path / "encoder.ckpt")
    with pytest.raises(MapexError, match="The encoder does not read rgb; it reads s1, s2, dem"):
        Pretrain(str(tmp_path / "encoder.ckpt"), ["s1", "rgb"])


def test_mixed_precision_trains_a_step() -> None:
    data, model = tiles_in(), model_of()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer = trainer_of(max_epochs=1, precision="bf16-mixed")
    trainer.fit(model, datamodule=data)
    assert trainer.callback_metrics["val/loss"].isfinite()
    for name, weight in model.named_parameters():
        assert weight.dtype == torch.float32
        assert weight.isfinite().all(), name
    assert not torch.equal(model.decoder.embed.weight, before["decoder.embed.weight"])
    assert not torch.equal(model.encoder.mixtures[0].experts.inner, before["encoder.blocks.0.mixture.experts.inner"])


def test_tokens_of_every_sensor_meet_in_collaborative_experts_and_nowhere_else() -> None:
    model = model_of(router="grouped", experts=5, collaborative=2, top_k=2)
    trainer_of().fit(model, datamodule=tiles_in())
    for mixture in model.encoder.mixtures.values():
        sensors = (mixture.census[0, :, :-1] > 0).sum(0)
        assert sensors[:3].tolist() == [1, 1, 1]
        assert (sensors[3:] > 1).all()
