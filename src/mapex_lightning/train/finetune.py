"""Fine-tuning: a head on an encoder, frozen or not, for labelled tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from mapex_lightning.checkpoint import Description, load_weights, read, weights
from mapex_lightning.data.tileset import Task
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.model.heads import head_of, probabilities
from mapex_lightning.model.tokens import Pool
from mapex_lightning.runs import find_checkpoint
from mapex_lightning.tiles import Tiles, drop_sensors
from mapex_lightning.train.base import Batch, MapexModule, fold, start, tiles_of
from mapex_lightning.train.metrics import MeanLoss, confusion_of, figures_of, loss_of, weight_of
from mapex_lightning.train.optim import Optimiser


@final
class FineTune(MapexModule):
    """A task on an encoder.

    Args:
        encoder: a checkpoint whose encoder to start from, pre-trained or pruned; one of a fine-tuned model brings
            its head along. A preset's name starts from random weights.
        task: kind of label; set from the data.
        classes: names of the classes; set from the data.
        modalities: the sensors of the data; set from ``data.modalities``.
        train: ``full`` trains everything, ``linear`` the head alone on frozen features, ``low-rank`` the head and
            low-rank experts for the sensors at hand on a frozen encoder, which gets new ones where it has none; see
            `mapex_lightning.model.lowrank`.
        rank: of new low-rank experts.
        drop_sensors: probability with which each sensor of a tile is taken away in training, though never the last
            one, for models that will have to do with missing sensors.
        pool: how a tile becomes one vector to classify: ``mean`` over its tokens, or over its sensors by their
            ``redundancy``: one that says what the others say counts less. A head that comes along pools as it did.
        pretrained: False draws new weights in the shape of the checkpoint's encoder, unsealed, as a control.
        drop_path: stochastic depth.
        optimiser: learning rate and its like.
        seed: of all noise in training.
    """

    kind = "finetune"
    mode = "max"

    def __init__(
        self,
        encoder: str,
        task: Task | None,
        classes: Sequence[str],
        modalities: list[str | Modality] | None = None,
        train: Literal["full", "linear", "low-rank"] = "full",
        rank: int = 8,
        drop_sensors: float = 0.0,
        pool: Pool = "mean",
        pretrained: bool = True,
        drop_path: float = 0.0,
        optimiser: Optimiser = Optimiser(lr=1e-3, layer_decay=0.9),
        seed: int = 0,
    ) -> None:
        if task is None or not classes:
            raise MapexError(
                "The data sets share no task and classes, so there is nothing to fine-tune on; use one set with labels."
            )
        if strange := [name for name in classes if not name.isprintable()]:
            raise MapexError(f"A class has a name that is no plain line of text: {strange[0]!r}. Give it another.")
        if task != "multilabel" and len(classes) == 1:
            raise MapexError(
                f"One class ({classes[0]}) leaves nothing to choose from: {task} needs two or more, such as one for "
                "all else. Whether a tile has one thing or not is task: multilabel."
            )
        if pool != "mean" and task == "segmentation":
            raise MapexError(
                f"Segmentation pools nothing; leave pool: {pool} out, or take a task with labels per tile."
            )
        if rank < 1 or not 0 <= drop_sensors < 1:
            raise MapexError(
                f"rank must be 1 or more, and drop_sensors a probability below 1; found {rank} and {drop_sensors}."
            )
        low_rank = rank if train == "low-rank" else 0
        built, found = start(encoder, modalities, pretrained, drop_path, low_rank)
        super().__init__(built, found.lineage, optimiser, seed)
        self.task: Task = task
        self.classes = tuple(classes)
        self.trained, self.drop_sensors = train, drop_sensors
        old_head = found.head
        self.pool: Pool = pool if old_head is None else old_head["pool"]
        # Of a seed of its own, so that a pruned encoder starts from the very head that the full one starts from.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold(seed, "head"))
            self.head: nn.Module = head_of(built.config, {"task": task, "classes": classes, "pool": self.pool})
        if old_head is not None:
            self._take_head(encoder, old_head)
        for name, weight in self.encoder.named_parameters():
            weight.requires_grad_(train == "full" or (train == "low-rank" and ".low_rank." in name))
        self.freeze_unseen(modalities)
        figures = figures_of(task, len(classes))
        self.monitor = f"val/{figures.main}"
        self.metrics: dict[str, MetricCollection] = {}
        for stage in ("val", "test"):
            self.add_module(f"{stage}_metrics", figures.collection(f"{stage}/"))
            # Not a mean by self.log, which over an odd number of tiles on two ranks counts one too few.
            self.add_module(f"{stage}_loss", MeanLoss())
        self.counts = confusion_of(task, len(classes))
        self.confusion: Tensor | None = None
        """What the latest test, or validation outside of training, took for what; see `confusion_of`."""

    def _take_head(self, path: str, head: Mapping[str, Any]) -> None:
        if (head["task"], tuple(head["classes"])) != (self.task, self.classes):
            raise MapexError(
                f"{path} was fine-tuned for {head['task']} of {len(head['classes'])} classes "
                f"({', '.join(head['classes'][:3])}, ...); the data has {self.task} of {len(self.classes)} "
                f"({', '.join(self.classes[:3])}, ...). Use the data it was trained for, or an encoder without a head."
            )
        load_weights(self.head, weights(read(find_checkpoint(path)), "head."), path)

    def describe(self) -> Description:
        """Encoder, head and lineage."""
        part = {"full": "all", "linear": "head", "low-rank": "head and low-rank experts"}[self.trained]
        step = f"fit: {self.task} of {len(self.classes)} classes, {part} trained, {self.trainer.global_step} steps"
        head = {"task": self.task, "classes": list(self.classes), "pool": self.pool}
        return Description("finetune", self.encoder.config, (*self.lineage, step), head=head)

    def forward(self, tiles: Tiles) -> Tensor:
        """Logits (B, K), or (B, K, H, W) for segmentation."""
        logits: Tensor = self.head(self.encoder, tiles)
        return logits.float()

    def train(self, mode: bool = True) -> FineTune:
        """A frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.trained != "full":
            self.encoder.eval()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The task's loss."""
        tiles, target = labelled(batch)
        if tiles.batch_size == 1 and self.task != "segmentation":
            raise MapexError(
                "The classifier standardises features over a batch and needs two or more tiles per process and step; "
                "raise data.batch_size, or train on more tiles or fewer devices."
            )
        if self.drop_sensors:
            generator = self.generator("sensors", self.trainer.global_step, batch_idx, self.global_rank)
            tiles = drop_sensors(tiles, self.drop_sensors, generator)
        loss = loss_of(self.task, self._logits(tiles, target), target)
        self.note({"train/loss": loss})
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begins a census, where training changes who uses whom: a frozen encoder keeps that of its pre-training."""
        self.counts.reset()
        if self.fitting and self.trained != "linear":
            self.start_census()

    def on_validation_epoch_end(self) -> None:
        """Ends it, and adds the ranks' counts up."""
        if self.fitting and self.trained != "linear":
            self.end_census()
        self._count_up()

    def on_test_epoch_start(self) -> None:
        """Counts from nothing on."""
        self.counts.reset()

    def on_test_epoch_end(self) -> None:
        """Adds the ranks' counts up."""
        self._count_up()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and figures."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and figures."""
        self._evaluate("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[tuple[str, ...], Tensor]:
        """Names and probabilities of the tiles of a batch."""
        tiles = tiles_of(batch)
        return tiles.names, probabilities(self.task, torch.cat([self(part) for part in self._portions(tiles)]))

    def _portions(self, tiles: Tiles) -> list[Tiles]:
        """A batch in portions as large as those of training: all parts of a large tile at once would be too many."""
        most = getattr(vars(self.trainer).get("datamodule"), "batch_size", tiles.batch_size)
        return [tiles] if tiles.batch_size <= most else tiles.parts(most)

    def _logits(self, tiles: Tiles, target: Tensor) -> Tensor:
        """Logits on the grid of the mask, which may be finer or coarser than that of the encoder's finest sensor."""
        logits: Tensor = self(tiles)
        if self.task == "segmentation" and logits.shape[-2:] != target.shape[-2:]:
            return F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=False)
        return logits

    @property
    def _counting(self) -> bool:
        """Whether classes are told apart: in the validations of training they would not be looked at."""
        return self.trainer.state.fn != TrainerFn.FITTING

    def _count_up(self) -> None:
        if self._counting:
            self.confusion = self.counts.compute()

    def _evaluate(self, stage: str, batch: Batch) -> None:
        tiles, target = labelled(batch)
        logits = torch.cat([self._logits(portion, target) for portion in self._portions(tiles)])
        metrics = self.get_submodule(f"{stage}_metrics")
        assert isinstance(metrics, MetricCollection)
        probability = probabilities(self.task, logits)
        metrics.update(probability, target.long())
        if self._counting:
            self.counts.update(probability, target.long())
        size = tiles.batch_size
        loss = self.get_submodule(f"{stage}_loss")
        assert isinstance(loss, MeanLoss)
        loss.update(loss_of(self.task, logits, target), weight_of(self.task, target))
        self.log(f"{stage}/loss", loss, batch_size=size)
        self.log_dict(dict(metrics.items(keep_base=False)), batch_size=size)


def labelled(batch: Batch) -> tuple[Tiles, Tensor]:
    """A batch that has labels.

    Raises:
        MapexError: it has none.
    """
    if isinstance(batch, Tiles):
        raise MapexError(
            f"Tiles without labels in common, such as {batch.names[0] if batch.names else 'the first'}: label each or "
            "leave it out, and fine-tune on data sets with one task and set of classes."
        )
    return batch
