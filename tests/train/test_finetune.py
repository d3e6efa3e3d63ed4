"""A task on an encoder: what is trained, what is taken along, and figures that can be recomputed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor

from mapex_lightning.checkpoint import describe, load, read, save, write
from mapex_lightning.data.module import TileData
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.data.tileset import Task
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality, modalities
from mapex_lightning.model.config import preset
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.pruning import prune
from mapex_lightning.tiles import IGNORED, Tile, Tiles
from mapex_lightning.train.checkpoint_io import WholeCheckpointIO
from mapex_lightning.train.finetune import FineTune, labelled
from mapex_lightning.train.metrics import loss_of
from mapex_lightning.train.optim import configure
from tests.builders import census_of, observe
from tests.workshop import trainer_of

SENSORS: list[str | Modality] = ["s1", "s2"]


def source_of(task: Task = "multiclass") -> Synthetic:
    return Synthetic(task=task, train=4, val=4, test=8, size=16, missing=0.2)


def tiles_in(task: Task = "multiclass") -> TileData:
    """Four tiles to train on, in one step, and two batches of unequal size to test on."""
    return TileData([source_of(task)], SENSORS, size=16, batch_size=4, augment=False)


def model_of(encoder: str = "nano", task: Task = "multiclass", **settings: Any) -> FineTune:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FineTune(encoder, task, source_of(task).classes, SENSORS, **settings)


@pytest.fixture
def pretrained(tmp_path: Path) -> str:
    """A checkpoint of an encoder that reads one sensor more than the data has."""
    path = tmp_path / "encoder.ckpt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        save(Encoder(preset("nano", modalities(["s1", "s2", "dem"]))), path)
    return str(path)


@pytest.fixture
def finetuned(tmp_path: Path) -> str:
    """A checkpoint of a model that was trained for one step."""
    trainer, path = trainer_of(limit_val_batches=0, plugins=[WholeCheckpointIO()]), tmp_path / "finetuned.ckpt"
    trainer.fit(model_of(), datamodule=tiles_in())
    trainer.save_checkpoint(path)
    return str(path)


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_a_linear_probe_moves_the_head_and_not_one_bit_of_the_encoder(pretrained: str) -> None:
    model = model_of(pretrained, train="linear")
    head, encoder = state(model.head), state(load(pretrained))
    trainer_of(limit_val_batches=0, max_epochs=2).fit(model, datamodule=tiles_in())
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, encoder[name]), name
    for name, weight in model.head.named_parameters():
        assert not torch.equal(weight, head[name]), name


def test_the_encoder_of_a_linear_probe_stays_in_evaluation_mode() -> None:
    probe, whole = model_of(train="linear", drop_path=0.5).train(), model_of(drop_path=0.5).train()
    assert not any(module.training for module in probe.encoder.modules())
    assert probe.head.training
    assert all(module.training for module in whole.encoder.modules())


@pytest.mark.parametrize("task", get_args(Task))
def test_only_embeddings_of_sensors_without_data_are_frozen_and_all_else_gets_a_gradient(
    pretrained: str, task: Task
) -> None:
    model = model_of(pretrained, task)
    trainer_of(limit_val_batches=0, max_epochs=1).fit(model, datamodule=tiles_in(task))
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {
        f"encoder.patchify.{part}.dem.{kind}" for part in ("embed", "norm") for kind in ("weight", "bias")
    }
    assert {name for name, weight in model.named_parameters() if weight.grad is None} == frozen
    for name, weight in model.named_parameters():
        assert weight.isfinite().all(), name


def test_the_head_starts_alike_whatever_the_encoder_and_the_random_state(pretrained: str) -> None:
    one = FineTune("nano", "multiclass", ["land", "water"], SENSORS)
    other = FineTune(pretrained, "multiclass", ["land", "water"], SENSORS)
    for name, value in one.head.state_dict().items():
        assert torch.equal(other.head.state_dict()[name], value), name
    third = FineTune("nano", "multiclass", ["land", "water"], SENSORS, seed=1)
    assert isinstance(third.head.get_parameter("linear.weight"), Tensor)
    assert not torch.equal(third.head.get_parameter("linear.weight"), one.head.get_parameter("linear.weight"))


def test_a_fine_tuned_checkpoint_brings_its_head_and_its_history_along(finetuned: str) -> None:
    stored, model = read(finetuned)["state_dict"], model_of(finetuned)
    for name, value in model.state_dict().items():
        if not name.startswith(("val_", "test_")):
            assert torch.equal(value, stored[name]), name
    assert not torch.equal(model.head.get_parameter("linear.weight"), model_of().head.get_parameter("linear.weight"))
    assert model.lineage == ("fit: multiclass of 10 classes, all trained, 1 steps",)
    classes = list(source_of().classes)
    assert describe(read(finetuned)).head == {"task": "multiclass", "classes": classes, "pool": "mean"}


def test_low_rank_training_moves_low_rank_experts_and_head_and_nothing_else(pretrained: str) -> None:
    model = model_of(pretrained, train="low-rank", rank=2)
    before, old = state(model), state(load(pretrained))
    trainer_of(limit_val_batches=0, max_epochs=2).fit(model, datamodule=tiles_in())
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if ".low_rank." in name or name.startswith("head.")}
    for name, weight in model.named_parameters():
        assert (weight.grad is not None) == (name in trained), name
        if name.endswith(("_up", "linear.weight")):
            assert not torch.equal(weight, before[name]), name
    for name, value in old.items():
        assert torch.equal(model.encoder.state_dict()[name], value), name


def test_the_encoder_below_low_rank_experts_stays_in_evaluation_mode() -> None:
    model = model_of(train="low-rank", drop_path=0.5).train()
    assert not any(module.training for module in model.encoder.modules())
    assert model.head.training


def test_low_rank_experts_come_along_with_their_checkpoint(tmp_path: Path) -> None:
    path, trainer = tmp_path / "low.ckpt", trainer_of(plugins=[WholeCheckpointIO()])
    save(Encoder(preset("nano", modalities(["s1", "s2", "dem"]), router="grouped")), path)
    model = model_of(str(path), train="low-rank", rank=2)
    trainer.fit(model, datamodule=tiles_in())
    trainer.save_checkpoint(path)
    assert describe(read(path)).lineage[-1] == (
        "fit: multiclass of 10 classes, head and low-rank experts trained, 1 steps"
    )
    figures = trainer.test(model, datamodule=tiles_in(), verbose=False)
    for settings in ({"train": "low-rank", "rank": 8}, {"train": "full"}):
        again = model_of(str(path), **settings)
        assert again.encoder.config.low_rank == 2
        assert trainer.test(again, datamodule=tiles_in(), verbose=False) == figures
    pruned = tmp_path / "pruned.ckpt"
    write(prune(read(path), ["s1", "s2"])[0], pruned)
    assert trainer.test(model_of(str(pruned)), datamodule=tiles_in(), verbose=False)[0] == pytest.approx(figures[0])


def encoder_with_census(folder: Path) -> Path:
    """A checkpoint of an encoder that has seen tiles."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        encoder = Encoder(preset("nano", modalities(["s1", "s2"]))).eval()
    observe(encoder, tiles_in().examples(3, "test"))
    save(encoder, folder / "counted.ckpt")
    return folder / "counted.ckpt"


def same_census(one: Encoder, other: Encoder) -> bool:
    assert all(census.any() for census in census_of(one).values())
    return all(torch.equal(census, census_of(other)[block]) for block, census in census_of(one).items())


@pytest.mark.parametrize("train", ["full", "low-rank", "linear"])
def test_the_census_is_that_of_the_trained_encoder_and_of_a_frozen_one_that_of_its_pre_training(
    train: str, tmp_path: Path
) -> None:
    before, data = load(encoder_with_census(tmp_path)), tiles_in()
    model = model_of(str(tmp_path / "counted.ckpt"), train=train)
    trainer_of(max_epochs=2, num_sanity_val_steps=1).fit(model, datamodule=data)
    after = model.encoder.eval()
    if train == "linear":
        assert same_census(after, before)
        return
    found = {block: census.clone() for block, census in census_of(after).items()}
    observe(after, *(tiles for tiles, _ in data.val_dataloader()))
    for block, census in census_of(after).items():
        torch.testing.assert_close(found[block], census)
    assert not same_census(after, before)


def test_neither_a_sanity_check_nor_an_evaluation_changes_the_census(tmp_path: Path) -> None:
    before = load(encoder_with_census(tmp_path))
    model = model_of(str(tmp_path / "counted.ckpt"))
    trainer_of(max_steps=1, max_epochs=9, check_val_every_n_epoch=2, num_sanity_val_steps=1).fit(
        model, datamodule=tiles_in()
    )
    trainer_of().validate(model, datamodule=tiles_in(), verbose=False)
    assert same_census(model.encoder, before)


def test_sensors_are_dropped_in_training_alone() -> None:
    share: dict[bool, list[float]] = {True: [], False: []}
    model = model_of(train="linear", drop_sensors=0.9)

    def note(_: torch.nn.Module, given: tuple[Tiles]) -> None:
        share[model.training].append(float(torch.stack(list(given[0].present.values())).float().mean()))

    model.encoder.register_forward_pre_hook(note)
    trainer_of(max_epochs=1).fit(model, datamodule=tiles_in())
    assert max(share[True]) < min(share[False])


@pytest.mark.parametrize("settings", [{"rank": 0}, {"drop_sensors": 1.0}, {"drop_sensors": -0.1}])
def test_a_rank_or_probability_out_of_range_gets_a_sentence(settings: dict[str, Any]) -> None:
    with pytest.raises(MapexError, match="rank must be 1 or more, and drop_sensors a probability below 1"):
        model_of(**settings)


def test_a_head_pools_as_it_was_trained_to(tmp_path: Path) -> None:
    trainer, path = trainer_of(limit_val_batches=0, plugins=[WholeCheckpointIO()]), tmp_path / "finetuned.ckpt"
    trainer.fit(model_of(pool="redundancy"), datamodule=tiles_in())
    trainer.save_checkpoint(path)
    assert model_of(str(path)).head.pool == "redundancy"
    assert model_of(str(path), pretrained=False).head.pool == "mean"


@pytest.mark.parametrize("task", ["multiclass", "segmentation"])
def test_one_class_to_choose_from_gets_a_sentence(task: Task) -> None:
    with pytest.raises(
        MapexError, match=rf"One class \(land\) leaves nothing to choose from: {task} needs two or more"
    ):
        FineTune("nano", task, ["land"], SENSORS)


class OneLabel(Synthetic):
    """Whether a synthetic tile has the first of its covers."""

    classes = ("land",)

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        return replace(super().read(key, modalities), target=np.array([int(key[-1]) % 2], dtype=np.float32))


def test_one_label_that_a_tile_has_or_has_not_is_learned_and_measured() -> None:
    data = TileData([OneLabel(task="multilabel", train=8, val=4, test=0, size=16)], SENSORS, size=16, batch_size=4)
    trainer = trainer_of()
    trainer.fit(FineTune("nano", data.task, data.classes, SENSORS), datamodule=data)
    assert 0 < trainer.callback_metrics["val/map"] <= 1
    assert 0 <= trainer.callback_metrics["val/f1"] <= 1


def test_segmentation_pools_nothing() -> None:
    with pytest.raises(MapexError, match="leave pool: redundancy out"):
        model_of(task="segmentation", pool="redundancy")


def test_the_control_of_a_fine_tuned_checkpoint_draws_a_head_of_its_own(finetuned: str) -> None:
    control = model_of(finetuned, pretrained=False)
    assert torch.equal(control.head.get_parameter("linear.weight"), model_of().head.get_parameter("linear.weight"))


@pytest.mark.parametrize(("task", "classes"), [("multilabel", source_of().classes), ("multiclass", ("a", "b"))])
def test_a_head_of_another_task_or_other_classes_is_refused(
    finetuned: str, task: Task, classes: tuple[str, ...]
) -> None:
    with pytest.raises(MapexError, match="was fine-tuned for multiclass of 10 classes"):
        FineTune(finetuned, task, classes, SENSORS)


def test_a_batch_without_labels_gets_a_sentence() -> None:
    with pytest.raises(MapexError, match="Tiles without labels in common"):
        labelled(Tiles.of(s1=torch.zeros(1, 2, 16, 16)))


def test_data_sets_whose_labels_differ_get_a_sentence() -> None:
    data = TileData([source_of("multiclass"), source_of("multilabel")], SENSORS, size=16, batch_size=4)
    with pytest.raises(MapexError, match="share no task and classes"):
        FineTune("nano", data.task, data.classes, SENSORS)
    with pytest.raises(MapexError, match="Tiles without labels in common"):
        trainer_of(limit_val_batches=0, max_epochs=1).fit(model_of(), datamodule=data)


def test_a_sensor_that_the_encoder_does_not_read_gets_a_sentence(pretrained: str) -> None:
    with pytest.raises(MapexError, match="The encoder does not read rgb; it reads s1, s2, dem"):
        FineTune(pretrained, "multiclass", ["land", "water"], ["s1", "rgb"])


def predicted(model: FineTune, trainer: pl.Trainer, data: TileData) -> tuple[list[str], Tensor]:
    """Names and probabilities of all tiles."""
    batches = trainer.predict(model, datamodule=data)
    assert batches is not None
    names, parts = [], []
    for batch in batches:
        found, probability = batch
        names += found
        parts.append(probability)
    return names, torch.cat(parts)


def labels_of(data: TileData, names: list[str]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(data.sets[0].label(name)) for name in names]))


def test_accuracy_and_loss_of_a_test_are_those_worked_out_from_predictions() -> None:
    data, trainer, model = tiles_in(), trainer_of(), model_of()
    figures = trainer.test(model, datamodule=data, verbose=False)[0]
    names, probability = predicted(model, trainer, data)
    label = labels_of(data, names)
    assert len(names) == 7
    assert figures["test/accuracy"] == pytest.approx(float((probability.argmax(1) == label).double().mean()))
    right = probability.gather(1, label[:, None])
    assert figures["test/loss"] == pytest.approx(float(-right.log().mean()), rel=1e-5)


def test_the_f1_of_a_test_is_that_worked_out_from_predictions() -> None:
    data, trainer, model = tiles_in("multilabel"), trainer_of(), model_of(task="multilabel")
    figures = trainer.test(model, datamodule=data, verbose=False)[0]
    names, probability = predicted(model, trainer, data)
    guess, label = probability >= 0.5, labels_of(data, names) > 0
    hits = int((guess & label).sum())
    assert hits > 0
    assert figures["test/f1"] == pytest.approx(2 * hits / int(guess.sum() + label.sum()))
    assert 0 < figures["test/map"] <= 1


def test_accuracy_and_miou_of_a_segmentation_are_those_worked_out_from_predictions() -> None:
    data, trainer, model = tiles_in("segmentation"), trainer_of(), model_of(task="segmentation")
    figures = trainer.test(model, datamodule=data, verbose=False)[0]
    names, probability = predicted(model, trainer, data)
    guess, label = probability.argmax(1), labels_of(data, names)
    assert guess.shape == label.shape == (7, 16, 16)
    assert figures["test/accuracy"] == pytest.approx(float((guess == label).double().mean()))
    shares = [
        float(((guess == c) & (label == c)).sum() / ((guess == c) | (label == c)).sum())
        for c in range(10)
        if bool(((guess == c) | (label == c)).any())
    ]
    assert figures["test/miou"] == pytest.approx(sum(shares) / len(shares), rel=1e-5)


@pytest.mark.parametrize("task", ["multiclass", "segmentation"])
def test_what_a_test_took_for_what_is_that_worked_out_from_predictions_and_training_counts_nothing(task: Task) -> None:
    data, trainer, model = tiles_in(task), trainer_of(max_epochs=1), model_of(task=task)
    trainer.fit(model, datamodule=data)
    fitted = model.confusion
    assert fitted is None
    for _ in range(2):  # which do not add up
        trainer.test(model, datamodule=data, verbose=False)
    names, probability = predicted(model, trainer, data)
    guess, label = probability.argmax(1).flatten(), labels_of(data, names).flatten().long()
    wanted = torch.zeros(10, 10, dtype=torch.int64).index_put_((label, guess), torch.tensor(1), accumulate=True)
    assert model.confusion is not None
    assert torch.equal(model.confusion, wanted)


class Patchy(Synthetic):
    """Synthetic masks of which few, or none, have labelled pixels, and the first tile none."""

    def __init__(self, labelled: int) -> None:
        super().__init__(task="segmentation", train=4, val=4, test=8, size=16, missing=0.0)
        self.labelled = labelled

    def read(self, key: str, modalities: Sequence[Modality]) -> Tile:
        tile = super().read(key, modalities)
        mask = np.array(tile.target)
        mask.reshape(-1)[self.labelled * int(key.split("-")[1]) :] = IGNORED
        return replace(tile, target=mask)


@pytest.mark.parametrize("labelled", [20, 0])
def test_the_loss_of_a_segmentation_is_the_mean_over_labelled_pixels_however_tiles_fall_into_batches(
    labelled: int,
) -> None:
    found = []
    for size in (1, 3, 8):
        data = TileData([Patchy(labelled)], SENSORS, size=16, batch_size=size, augment=False)
        found.append(trainer_of().test(model_of(task="segmentation"), datamodule=data, verbose=False)[0]["test/loss"])
    assert found == pytest.approx([found[0]] * 3, rel=1e-5)
    assert (found[0] > 0) == (labelled > 0)


@pytest.mark.parametrize("batch_size", [2, 9, 20])
def test_figures_of_a_segmentation_are_of_whole_tiles_whatever_the_size_of_batches(batch_size: int) -> None:
    source = Synthetic(task="segmentation", train=4, val=4, test=3, size=20, missing=0)
    data, model = TileData([source], SENSORS, size=8, batch_size=batch_size), model_of(task="segmentation")
    trainer = trainer_of()
    figures = trainer.test(model, datamodule=data, verbose=False)[0]
    names, probability = predicted(model, trainer, data)
    assert (len(names), set(names)) == (27, set(source.keys("test")))
    label = torch.from_numpy(np.stack([np.asarray(source.label(name)) for name in source.keys("test")]))
    masks = probability.argmax(1).numpy().reshape(3, 9, 8, 8)
    joined = [data.layout(key).joined(parts) for key, parts in zip(source.keys("test"), masks, strict=True)]
    guess = torch.from_numpy(np.stack(joined))
    assert figures["test/accuracy"] == pytest.approx(float((guess == label).double().mean()))


def test_figures_of_two_tests_do_not_add_up() -> None:
    data, trainer, model = tiles_in(), trainer_of(), model_of()
    first = trainer.test(model, datamodule=data, verbose=False)
    assert trainer.test(model, datamodule=data, verbose=False) == first


@pytest.mark.parametrize(("task", "monitor"), [("multiclass", "val/accuracy"), ("segmentation", "val/miou")])
def test_the_best_model_is_chosen_by_a_figure_that_validation_logs(task: Task, monitor: str) -> None:
    model = model_of(task=task)
    trainer = trainer_of()
    figures = trainer.validate(model, datamodule=tiles_in(task), verbose=False)[0]
    assert model.monitor == monitor
    assert monitor in figures


def test_one_tile_per_step_is_a_sentence() -> None:
    model = FineTune("nano", "multiclass", ["a", "b"], ["s2"])
    tiles = Tiles.of(s2=torch.full((1, 12, 16, 16), 900.0))
    with pytest.raises(MapexError, match=r"two or more tiles per process and step.*data\.batch_size"):
        model.training_step((tiles, torch.zeros(1, dtype=torch.int64)), 0)


def test_a_sealed_model_fine_tunes_on_the_same_path_before_and_after_pruning(tmp_path: Path) -> None:
    config = preset("nano", modalities(["s1", "s2", "dem"]), router="grouped")
    save(Encoder(config), tmp_path / "full.ckpt")
    write(prune(read(tmp_path / "full.ckpt"), ["s1", "s2"])[0], tmp_path / "pruned.ckpt")
    full, pruned = (model_of(str(tmp_path / f"{name}.ckpt")) for name in ("full", "pruned"))
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in full.parameters())
    batch = labelled(next(iter(tiles_in().train_dataloader())))
    losses: dict[FineTune, list[float]] = {full: [], pruned: []}
    for model, found in losses.items():
        optimiser, schedule = configure(model, model.optimiser, config.depth, 6)
        for _ in range(4):
            loss = loss_of("multiclass", model(batch[0]), batch[1])
            loss.backward()
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            found.append(loss.item())
    assert losses[pruned] == pytest.approx(losses[full], rel=1e-4)
    assert losses[full][-1] < losses[full][0]


@pytest.mark.parametrize("factor", [2, 0.5, 1])
def test_a_mask_on_another_grid_than_the_encoders_is_learned_from_and_measured_on(factor: float) -> None:
    data, model = tiles_in("segmentation"), model_of(task="segmentation")
    tiles, target = labelled(next(iter(data.train_dataloader())))
    resized = torch.nn.functional.interpolate(target[:, None].float(), scale_factor=factor).long()[:, 0]
    logits = model._logits(tiles, resized)
    assert logits.shape == (4, 10, *resized.shape[-2:])
    whole = model(tiles)
    torch.testing.assert_close(logits.mean((2, 3)), whole.mean((2, 3)), rtol=0.05, atol=0.05)
    assert torch.isfinite(loss_of("segmentation", logits, resized))
