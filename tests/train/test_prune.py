"""One look at real tiles says which experts a sensor needs, and the result stands alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mapex_lightning.checkpoint import describe, load, read, save, write
from mapex_lightning.data.module import TileData
from mapex_lightning.data.sets.synthetic import Synthetic
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import modalities
from mapex_lightning.model.config import preset
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.pruning import Policy, prune
from mapex_lightning.train.checkpoint_io import WholeCheckpointIO
from mapex_lightning.train.finetune import FineTune
from mapex_lightning.train.prune import Prune
from tests.builders import census_of, checkpoint_of, observe, only
from tests.workshop import trainer_of


def tiles_in(*sensors: str) -> TileData:
    """Five tiles to look at, in two batches."""
    source = Synthetic(train=4, val=5, test=0, size=16, missing=0.2)
    return TileData([source], list(sensors), size=16, batch_size=4)


@pytest.fixture
def saved(tmp_path: Path) -> str:
    """A checkpoint of an encoder whose census is empty."""
    path = tmp_path / "encoder.ckpt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save(Encoder(preset("nano", modalities(["s1", "s2", "dem"]))), path)
    return str(path)


def pruned(path: str, *keep: str, policy: Policy | None = None) -> Prune:
    model = Prune(path, keep, policy)
    trainer_of().validate(model, datamodule=tiles_in("s1", "s2", "dem"), verbose=False)
    return model


def by_hand(path: str, *keep: str) -> Encoder:
    """The same encoder after it saw these sensors of the same tiles one by one."""
    encoder, data = load(path), tiles_in("s1", "s2", "dem")
    data.batch_size = 1
    with encoder.observe(), torch.no_grad():
        for tiles, _ in data.val_dataloader():
            if any(bool(tiles.present[name]) for name in keep):
                encoder(only(tiles, *(name for name in keep if bool(tiles.present[name]))))
    return encoder


def test_the_census_is_that_of_the_kept_sensors_of_the_tiles_counted_by_hand(saved: str) -> None:
    found, wanted = census_of(pruned(saved, "s1", "dem").encoder), census_of(by_hand(saved, "s1", "dem"))
    assert set(found) == {0, 2, 4}
    for block, census in found.items():
        assert census[0].any()
        torch.testing.assert_close(census, wanted[block])


def test_the_experts_kept_are_those_that_the_census_asks_for(saved: str) -> None:
    found = pruned(saved, "s2", policy=Policy("coverage", 0.5)).pruned
    assert found is not None
    wanted = prune(checkpoint_of(by_hand(saved, "s2")), ["s2"], Policy("coverage", 0.5))[1]
    assert found[1].experts == wanted.experts
    assert all(len(kept) < 6 for kept in found[1].experts.values())


def test_the_mass_that_is_retained_is_that_of_the_pruned_model_and_not_of_all_sensors(saved: str) -> None:
    alone = prune(checkpoint_of(by_hand(saved, "s2")), ["s2"], Policy("top", 1))[1]
    together = prune(checkpoint_of(by_hand(saved, "s1", "s2", "dem")), ["s2"], Policy("top", 1))[1]
    found = pruned(saved, "s2", policy=Policy("top", 1)).pruned
    assert found is not None
    assert found[1].retained["s2"] == pytest.approx(alone.retained["s2"])
    assert found[1].retained["s2"] != pytest.approx(together.retained["s2"])


def test_what_the_checkpoint_counted_of_other_sensors_stays_in_the_report(saved: str) -> None:
    encoder = load(saved)
    observe(encoder, tiles_in("s1", "s2", "dem").examples(5))
    save(encoder, Path(saved))
    found, before = pruned(saved, "s2").pruned, prune(read(saved), ["s2"])[1]
    assert found is not None
    assert found[1].shares["s1"] == before.shares["s1"]
    assert found[1].shares["s2"] != before.shares["s2"]


def test_the_pruned_checkpoint_loads_with_its_sensors_and_tells_its_story(saved: str, tmp_path: Path) -> None:
    found = pruned(saved, "s1", "s2").pruned
    assert found is not None
    write(found[0], tmp_path / "pruned.ckpt")
    assert load(tmp_path / "pruned.ckpt").config.names == ("s1", "s2")
    lineage = describe(read(tmp_path / "pruned.ckpt")).lineage
    assert lineage[:2] == ("python", "census refreshed on tiles")
    assert "--keep s1,s2" in lineage[2]


def test_the_pruned_model_carries_the_refreshed_census_on(saved: str) -> None:
    model = pruned(saved, "s2")
    assert model.pruned is not None
    for block, mixture in model.encoder.mixtures.items():
        kept = model.pruned[0]["state_dict"][f"encoder.blocks.{block}.mixture.census"]
        torch.testing.assert_close(kept.sum((1, 2)), mixture.census[:, 1].sum(1))


def test_pruning_leaves_the_file_that_it_prunes_alone(saved: str) -> None:
    before = Path(saved).read_bytes()
    pruned(saved, "s2")
    assert Path(saved).read_bytes() == before


def test_a_kept_sensor_that_no_tile_has_gets_a_sentence(saved: str) -> None:
    model = Prune(saved, ["dem"])
    with pytest.raises(MapexError, match="has seen no token of dem"):
        trainer_of().validate(model, datamodule=tiles_in("s1", "s2"), verbose=False)


def test_a_head_is_kept_and_still_predicts(tmp_path: Path) -> None:
    data, trainer = tiles_in("s1", "s2", "dem"), trainer_of(plugins=[WholeCheckpointIO()])
    tuned = FineTune("nano", "multiclass", data.classes, ["s1", "s2", "dem"])
    trainer.fit(tuned, datamodule=data)
    trainer.save_checkpoint(tmp_path / "tuned.ckpt")
    found = pruned(str(tmp_path / "tuned.ckpt"), "s2").pruned
    assert found is not None
    write(found[0], tmp_path / "pruned.ckpt")
    model = FineTune(str(tmp_path / "pruned.ckpt"), "multiclass", data.classes, ["s2"])
    for name, value in model.head.state_dict().items():
        assert torch.equal(value, tuned.head.state_dict()[name]), name
    figures = trainer_of().validate(model, datamodule=tiles_in("s2"), verbose=False)[0]
    assert figures["val/loss"] > 0
