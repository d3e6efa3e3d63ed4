"""A step whose loss or gradients are not finite changes nothing, on no rank, and its tiles are named."""

from __future__ import annotations

import copy
import csv
import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor

from mapex_lightning.data.module import TileData
from mapex_lightning.data.tileset import Split, Task, TileSet
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality, modalities
from mapex_lightning.model.auxiliary import auxiliary_losses, total
from mapex_lightning.model.reconstruction import reconstruct
from mapex_lightning.model.target import mean_over_modalities
from mapex_lightning.tiles import Tile, Tiles
from mapex_lightning.train.base import MapexModule, tiles_of
from mapex_lightning.train.finetune import FineTune
from mapex_lightning.train.nonfinite import SHOWN, SkipNonFinite, SkippedStepWarning, named
from mapex_lightning.train.optim import clip, configure
from mapex_lightning.train.pretrain import Pretrain
from mapex_lightning.train.sharded import FullySharded
from tests.ranks import together
from tests.workshop import trainer_of

SENSORS = ("s1", "s2")


class Noise(TileSet):
    """Noise; the tiles `spoilt` have one pixel of s2 that no sensor measures, though it is a finite number."""

    task: Task = "multiclass"
    root, classes = Path(), ("a", "b")

    def __init__(self, *spoilt: str, train: int = 8) -> None:
        self.spoilt, self.train = spoilt, train

    def offers(self, modality: Modality) -> bool:
        return True

    def keys(self, split: Split, modalities: Sequence[Modality] | None = None) -> list[str]:
        return [f"{split}{number}" for number in range(self.train if split == "train" else 2)]

    def label(self, key: str) -> int:
        return int(key[-1]) % 2

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        rng = np.random.default_rng(list(key.encode()))
        images = {
            m.name: (rng.normal(size=(len(m.bands), 16, 16)) * np.reshape(m.std, (-1, 1, 1)) + 1).astype(np.float32)
            for m in modalities
        }
        if key in self.spoilt:
            images["s2"][3, 8, 8] = 1e38
        return Tile(key, images, self.label(key))


def data_of(*spoilt: str, train: int = 8) -> TileData:
    return TileData([Noise(*spoilt, train=train)], list(SENSORS), size=16, batch_size=2)


def model_of(kind: str = "pretrain") -> Pretrain | FineTune:
    torch.manual_seed(0)
    if kind == "pretrain":
        return Pretrain("nano", list(SENSORS), experts=2, every=3)
    return FineTune("nano", "multiclass", ["a", "b"], list(SENSORS))


def stored(module: pl.LightningModule, trainer: pl.Trainer) -> dict[str, Tensor]:
    """Weights, running statistics and the state of the optimiser, as they are now; whole ones on every rank."""
    found = dict(module.state_dict())
    for number, state in enumerate(trainer.optimizers[0].state.values()):
        found |= {f"{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).clone() for name, value in found.items()
    }


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Witness(Callback):
    """Keeps the batches, and what is stored before and after each.

    Lightning calls it after `SkipNonFinite`.
    """

    def __init__(self) -> None:
        self.batches: list[Tiles] = []
        self.stored: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        if not self.stored:
            self.stored.append(stored(pl_module, trainer))
        self.batches.append(tiles_of(batch))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.stored.append(stored(pl_module, trainer))

    def with_tile(self, name: str) -> int:
        (found,) = (number for number, tiles in enumerate(self.batches) if name in tiles.names)
        return found


def fit(module: MapexModule, data: TileData, **settings: Any) -> tuple[Witness, SkipNonFinite]:
    witness, watch = Witness(), SkipNonFinite()
    settings = {"gradient_clip_val": 1.0, "limit_val_batches": 0, "log_every_n_steps": 1} | settings
    trainer_of(callbacks=[watch, witness], **settings).fit(module, datamodule=data)
    return witness, watch


def steps_by_hand(module: Pretrain, batches: Sequence[Tiles], left_out: int) -> dict[str, Tensor]:
    """The weights after the steps of a plain loop that does not take one of the batches."""
    optimiser, schedule = configure(module, module.optimiser, module.encoder.config.depth, len(batches))
    for step, tiles in enumerate(batches):
        if step != left_out:
            found = reconstruct(
                module.encoder, module.decoder, tiles, module.visible, module.generator("step", step, step, 0)
            )
            losses = auxiliary_losses(found.assignments, len(SENSORS))
            optimiser.zero_grad()
            (mean_over_modalities(found.errors) + total(losses, module.auxiliary)).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
        schedule.step()
    return {name: value.detach() for name, value in module.named_parameters()}


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_step_with_a_loss_that_is_no_number_changes_nothing(kind: str) -> None:
    # In pre-training the target is normalised, and it is the gradients that are not finite.
    what = "a finite loss whose gradients are not finite," if kind == "pretrain" else "a loss that is not finite"
    with pytest.warns(SkippedStepWarning, match=what + r" with tile train3 .s2 has 1e\+38, .* of Noise"):
        witness, watch = fit(model_of(kind), data_of("train3"))
    bad = witness.with_tile("train3")
    for step in range(4):
        if step or bad:  # what the optimiser stores is made in its first step
            assert same(witness.stored[step], witness.stored[step + 1]) == (step == bad)
    assert all(value.isfinite().all() for value in witness.stored[-1].values())
    assert watch.skipped == 1


def test_a_run_goes_on_as_if_the_step_had_not_been() -> None:
    module, plain = model_of(), model_of()
    assert isinstance(plain, Pretrain)
    with pytest.warns(SkippedStepWarning):
        witness, _ = fit(module, data_of("train3"))
    by_hand = steps_by_hand(plain, witness.batches, witness.with_tile("train3"))
    assert same(dict(module.named_parameters()), by_hand)


def test_a_run_without_such_a_step_is_the_same_to_the_bit_as_one_that_nobody_watches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched, plain = model_of(), model_of()
    _, watch = fit(watched, data_of())
    assert watch.skipped == 0
    monkeypatch.delattr(MapexModule, "configure_gradient_clipping")
    trainer_of(gradient_clip_val=1.0, limit_val_batches=0).fit(plain, datamodule=data_of())
    assert same(watched.state_dict(), plain.state_dict())


def test_one_bad_batch_of_those_that_share_a_step_is_enough() -> None:
    tile = fit(model_of(), data_of(train=16))[0].batches[5].names[0]
    with pytest.warns(SkippedStepWarning, match=rf"step 1: .* with tile {tile} \("):
        witness, watch = fit(model_of(), data_of(tile, train=16), accumulate_grad_batches=4)
    assert same(witness.stored[4], witness.stored[8])
    assert not same(witness.stored[3], witness.stored[4])
    assert watch.skipped == 1


def test_pixels_of_batches_that_share_a_step_are_kept_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mapex_lightning.train.nonfinite.KEPT", 1)
    with pytest.warns(SkippedStepWarning, match=r"step .: a finite .* with tiles train") as told:
        fit(model_of(), data_of("train3", train=16), accumulate_grad_batches=4)
    assert "1e+38" not in str(told[-1].message)


def test_a_loss_that_is_no_number_counts_although_its_gradients_are_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Pretrain.training_step

    def off(module: Pretrain, batch: Any, batch_idx: int) -> Tensor:
        return whole(module, batch, batch_idx) + (torch.inf if batch_idx == 2 else 0.0)

    monkeypatch.setattr(Pretrain, "training_step", off)
    with pytest.warns(SkippedStepWarning, match="step 2: a loss that is not finite with tiles train., train. of Noise"):
        witness, _ = fit(model_of(), data_of())
    assert same(witness.stored[2], witness.stored[3])


def test_gradients_that_are_no_numbers_count_although_the_loss_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Pretrain.training_step

    def off(module: Pretrain, batch: Any, batch_idx: int) -> Tensor:
        loss = whole(module, batch, batch_idx)
        return loss + (loss - loss.detach()).abs().sqrt() if batch_idx == 1 else loss  # whose slope at 0 is infinite

    monkeypatch.setattr(Pretrain, "training_step", off)
    with pytest.warns(SkippedStepWarning, match="step 1: a finite loss whose gradients are not finite, with tiles"):
        witness, _ = fit(model_of(), data_of())
    assert same(witness.stored[1], witness.stored[2])


def test_the_log_says_where_it_was(tmp_path: Path) -> None:
    with pytest.warns(SkippedStepWarning):
        witness, _ = fit(model_of(), data_of("train3"), logger=CSVLogger(tmp_path, name="", version=""))
    with (tmp_path / "metrics.csv").open(newline="") as file:
        found = {row["step"]: row["train/skipped"] for row in csv.DictReader(file) if row["train/skipped"]}
    assert found == {str(witness.with_tile("train3")): "1.0"}


def test_three_in_a_row_end_the_run_and_all_their_tiles_are_named() -> None:
    spoilt = [f"train{number}" for number in range(8)]
    module = model_of()
    before = copy.deepcopy(module.state_dict())
    with pytest.warns(SkippedStepWarning), pytest.raises(MapexError) as refused:
        fit(module, data_of(*spoilt))
    sentence = str(refused.value)
    assert sentence.startswith("3 steps in a row had a loss or gradients that are not finite; they changed nothing")
    assert sum(name in sentence for name in spoilt) == 6
    assert all(f"step {step}: " in sentence for step in range(3))
    assert "mapex doctor" in sentence
    assert same(before, module.state_dict())


def test_a_good_step_in_between_ends_the_row() -> None:
    order = [tiles.names[0] for tiles in fit(model_of(), data_of())[0].batches]
    with pytest.warns(SkippedStepWarning):
        _, watch = fit(model_of(), data_of(order[0], order[1], order[3]))
    assert watch.skipped == 3
    assert len(watch.row) == 1


def test_the_row_goes_on_where_a_run_is_resumed(tmp_path: Path) -> None:
    spoilt = [f"train{number}" for number in range(8)]

    class Saver(Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "two.ckpt")

    trainer = trainer_of(max_steps=2, callbacks=[SkipNonFinite(), Saver()], limit_val_batches=0)
    with pytest.warns(SkippedStepWarning):
        trainer.fit(model_of(), datamodule=data_of(*spoilt))
    resumed = trainer_of(limit_val_batches=0, callbacks=[SkipNonFinite()])
    with pytest.raises(MapexError, match=r"step 0: .*; step 1: .*; step 2: "):
        resumed.fit(model_of(), datamodule=data_of(*spoilt), ckpt_path=tmp_path / "two.ckpt", weights_only=True)


def test_a_checkpoint_counts_the_step_after_which_it_is_written() -> None:
    found: list[dict[str, Any]] = []

    class Keeper(Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            found.append(watch.state_dict())

    watch = SkipNonFinite()
    trainer = trainer_of(limit_val_batches=0, callbacks=[watch, Keeper()])
    with pytest.warns(SkippedStepWarning):
        trainer.fit(model_of(), datamodule=data_of("train3"))
    counted = [state["skipped"] for state in found]
    assert sorted(counted) == counted
    assert set(counted) <= {0, 1}
    assert [len(state["row"]) for state in found].count(1) == 1


# The scaler skips the very first step, too.
@pytest.mark.filterwarnings(r"ignore:Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`:UserWarning")
def test_with_a_gradient_scaler_a_loss_that_is_no_number_counts_and_gradients_that_overflow_do_not() -> None:
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**100))
    with pytest.warns(SkippedStepWarning, match="step .: a loss that is not finite with tile train3"):
        witness, watch = fit(model_of("finetune"), data_of("train3"), plugins=[plugin], gradient_clip_val=None)
    assert watch.skipped == 1
    weights = [[step[name] for name in step if name.endswith("weight")] for step in witness.stored]
    assert all(map(torch.equal, weights[0], weights[-1]))  # the scale is still too large


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("limit", "by_value"), [(1.0, False), (1.0, True), (None, False)])
def test_an_optimiser_passes_over_gradients_that_are_no_numbers(
    fused: bool, bad: float, limit: float | None, by_value: bool
) -> None:
    weights = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2, 2))]
    optimiser = torch.optim.AdamW(weights, lr=0.1, fused=fused)
    passed, found = [], []
    for value in (1.0, bad, 1.0):
        optimiser.zero_grad()
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        weights[1].grad = torch.tensor([[1.0, 1.0], [1.0, value]])
        passed.append(bool(clip(optimiser, limit, by_value)))
        optimiser.step()
        state = [item for weight in weights for item in (weight.detach(), *optimiser.state[weight].values())]
        found.append([item.clone() for item in state])
    assert passed == [False, True, False]
    assert all(map(torch.equal, found[0], found[1]))
    assert not any(map(torch.equal, found[1], found[2]))


def test_gradients_are_clipped_as_torch_clips_them() -> None:
    for by_value, plain in ((False, torch.nn.utils.clip_grad_norm_), (True, torch.nn.utils.clip_grad_value_)):
        ours, theirs = (torch.nn.Parameter(torch.zeros(5)) for _ in range(2))
        ours.grad, theirs.grad = torch.arange(5.0), torch.arange(5.0)
        clip(torch.optim.AdamW([ours], fused=True), 1.5, by_value)
        plain([theirs], 1.5)
        assert torch.equal(ours.grad, theirs.grad)


def test_tiles_are_named_by_what_is_strange_about_them_or_all_of_them() -> None:
    s1 = modalities(["s1"])
    plain = Tiles.of(s1=torch.full((20, 2, 8, 8), -12.0))._replace(names=tuple(f"t{n}" for n in range(20)))
    assert named(plain, s1, None) == f"tiles {', '.join(f't{n}' for n in range(SHOWN))} and {20 - SHOWN} more"
    plain.images["s1"][3, 1, 2, 2] = -1e20
    plain.images["s1"][5, 0, 0, 0] = torch.nan  # nodata is not strange
    assert named(plain, s1, None).startswith("tile t3 (s1 has -1e+20, ")
    assert named(plain._replace(names=()), s1, None).startswith("tile number 3 (")
    absent = plain._replace(present={"s1": torch.zeros(20, dtype=torch.bool)})
    assert named(absent, s1, None).startswith("tiles t0, t1")


def of_a_rank(strategy: str, spoilt: str = "", left_out: int | None = None) -> dict[str, Any]:
    """What this rank of two ends with, and what it says, where one tile is spoilt or one step is not taken."""
    take = Pretrain.optimizer_step

    def step(module: Pretrain, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:
        if batch_idx == left_out:
            closure()
        else:
            take(module, epoch, batch_idx, optimizer, closure)

    kind: Any = {"ddp": DDPStrategy, "fsdp2": FullySharded}[strategy]
    settings = {"strategy": kind(process_group_backend="gloo", timeout=timedelta(seconds=60)), "devices": 2}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", SkippedStepWarning)
        patch.setattr(Pretrain, "optimizer_step", step)
        witness, watch = fit(model_of(), data_of(spoilt, train=16), **settings)
    end = torch.cat([value.flatten().double() for _, value in sorted(witness.stored[-1].items())])
    return {
        "stored": hashlib.sha256(end.numpy().tobytes()).hexdigest(),
        "finite": bool(end.isfinite().all()),
        "skipped": watch.skipped,
        "names": [tiles.names for tiles in witness.batches],
        "said": [str(one.message) for one in said if one.category is SkippedStepWarning],
    }


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_one_rank_is_enough_and_no_rank_takes_the_step(strategy: str) -> None:
    step, rank = 2, 1
    never = together(of_a_rank, strategy, "", step)
    tile = never[rank]["names"][step][0]
    bad = together(of_a_rank, strategy, tile)
    assert all(found["finite"] and found["skipped"] == 1 for found in bad)
    assert bad[0]["stored"] == bad[1]["stored"] == never[0]["stored"] == never[1]["stored"]
    (said,), silent = bad[0]["said"], bad[1]["said"]
    assert re.search(rf"step {step}: .* with tile {tile} .s2 has 1e\+38.* of Noise on rank {rank}", said)
    assert silent == []
