"""Pre-training: masked reconstruction over modalities.

Axes: B tiles, M modalities, N tokens.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, final

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from mapex_lightning.checkpoint import Description, read, weights
from mapex_lightning.checkpoint import built as load_built
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.model.auxiliary import Auxiliary, auxiliary_losses, total
from mapex_lightning.model.config import RouterMode
from mapex_lightning.model.decoder import Decoder, DecoderConfig, decoder_for
from mapex_lightning.model.masking import PASSES
from mapex_lightning.model.reconstruction import reconstruct
from mapex_lightning.model.specialisation import specialisation
from mapex_lightning.model.target import Error, mean_over_modalities
from mapex_lightning.pruning import sealing
from mapex_lightning.runs import find_checkpoint
from mapex_lightning.train.base import Batch, MapexModule, start, tiles_of
from mapex_lightning.train.optim import Optimiser


@final
class Pretrain(MapexModule):
    """Masked reconstruction on tiles of many sensors, with experts that divide the sensors up.

    Args:
        encoder: a preset (nano, tiny, small, base, large) for random weights, or a checkpoint to go on from.
        modalities: the sensors of a preset; set from ``data.modalities``.
        experts: experts per mixture; by default 6, and two per modality where there are more than three.
        every: every how many blocks, from the first on, the feed-forward is a mixture; 0 for the dense twin.
        router: how tokens choose experts; see `mapex_lightning.model.router.Router`.
        top_k: experts per token.
        collaborative: experts that every sensor may choose besides its own, with ``router: grouped``.
        patch: side of a patch in pixels.
        visible: share of a view's tokens that the encoder sees.
        decoder: shape of the decoder; by default half as wide as the encoder, two blocks deep. A pre-training
            checkpoint brings its own.
        auxiliary: weights of the auxiliary losses.
        optimiser: learning rate and its like.
        seal: share of the run after which every sensor's experts are fixed, at the next validation, or at the end of
            the run by the latest one if none follows; null for never.
        seed: of masking.
    """

    kind = "pretrain"
    passes = ("training_step", "validation_step")
    monitor = "val/loss"
    mode = "min"

    def __init__(
        self,
        encoder: str = "nano",
        modalities: list[str | Modality] | None = None,
        experts: int | None = None,
        every: int = 2,
        router: RouterMode = "conditioned",
        top_k: int = 1,
        collaborative: int = 0,
        patch: int = 8,
        visible: float = 0.25,
        decoder: DecoderConfig | None = None,
        auxiliary: Auxiliary = Auxiliary(),
        optimiser: Optimiser = Optimiser(),
        seal: float | None = 0.9,
        seed: int = 0,
    ) -> None:
        shape: dict[str, Any] = {"experts": experts, "every": every, "top_k": top_k, "patch": patch}
        built, found = start(encoder, modalities, router=router, collaborative=collaborative, **shape)
        super().__init__(built, found.lineage, optimiser, seed)
        if found.decoder is None:
            self.decoder = Decoder(built.config, decoder or decoder_for(built.config))
        else:
            its, stored = DecoderConfig(**found.decoder), weights(read(find_checkpoint(encoder)), "decoder.")
            self.decoder = load_built(lambda: Decoder(built.config, its), stored, encoder)
        self.freeze_unseen(modalities)
        self.visible, self.auxiliary, self.seal = visible, auxiliary, seal

    def describe(self) -> Description:
        """Encoder, decoder and lineage."""
        step = f"fit: masked reconstruction, {self.trainer.global_step} steps"
        return Description("pretrain", self.encoder.config, (*self.lineage, step), decoder=asdict(self.decoder.config))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean reconstruction loss over modalities plus the auxiliary losses."""
        tiles = tiles_of(batch)
        generator = self.generator("step", self.trainer.global_step, batch_idx, self.global_rank)
        passes = 1 if self.sharded else PASSES
        found = reconstruct(self.encoder, self.decoder, tiles, self.visible, generator, passes)
        auxiliary = auxiliary_losses(found.assignments, len(self.encoder.config.names))
        loss = mean_over_modalities(found.errors)
        figures = {"train/loss": loss}
        figures |= {f"train/loss/{name}": error.mean for name, error in found.errors.items()}
        figures |= {f"train/{name}": value for name, value in auxiliary.items() if name != "entropy"}
        self.note(figures)
        return loss + total(auxiliary, self.auxiliary)

    def on_train_start(self) -> None:
        """A run begins without a census: what a sanity check or an earlier run has counted is not its own."""
        if self.trainer.global_step == 0:
            for mixture in self.encoder.mixtures.values():
                mixture.census.zero_()

    def on_validation_epoch_start(self) -> None:
        """Begins a census and empties the sums of errors."""
        self.start_census()
        self._errors = torch.zeros(2, len(self.encoder.config.names), device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same loss under the same masks every time, and one unmasked pass for the census."""
        tiles = tiles_of(batch)
        self.encoder(tiles)
        with self.encoder.unobserved():
            generator = self.generator("validation", batch_idx, self.global_rank)
            found = reconstruct(self.encoder, self.decoder, tiles, self.visible, generator)
        for name, error in found.errors.items():
            self._errors[:, self.encoder.config.names.index(name)] += torch.stack(error)

    def on_validation_epoch_end(self) -> None:
        """Logs loss per modality and how specialised the experts are, and seals when it is time."""
        self.end_census()
        self.routing = {b: specialisation(mixture.census[0, :, :-1]) for b, mixture in self.encoder.mixtures.items()}
        totals, counts = self.trainer.strategy.reduce(self._errors, reduce_op="sum")
        errors = {n: Error(t, c) for n, t, c in zip(self.encoder.config.names, totals, counts, strict=True)}
        figures = {"val/loss": mean_over_modalities(errors)}
        figures |= {f"val/loss/{name}": error.mean for name, error in errors.items() if error.number > 0}
        for block, routing in self.routing.items():
            figures[f"routing/nmi/block{block}"] = routing["nmi"].float()
            for name, value in zip(self.encoder.config.names, routing["effective"].float(), strict=True):
                figures[f"routing/effective/{name}/block{block}"] = value
        self.log_dict(figures)
        if self.fitting and self._due():
            self._seal()

    def on_train_epoch_end(self) -> None:
        """Seals at the end of the run by the latest census, if no validation came when it was time.

        A time limit is no end. Callbacks that keep checkpoints are called after this.
        """
        if not self._due(at_end=True):
            return
        if any(bool(mixture.census.any()) for mixture in self.encoder.mixtures.values()):
            self._seal()
        elif self.trainer.checkpoint_callbacks:  # whoever keeps nothing, as a rehearsal does, needs to know nothing
            rank_zero_warn(
                "The experts are not sealed: the run had no validation, which counts who uses whom, so pruning may "
                "change outputs. Prune with --config TILES, or go on from the checkpoint in a run with a validation; "
                "model.seal: null if nothing is to be sealed."
            )

    def on_train_end(self) -> None:
        """Says that a run that was stopped early is not sealed: that is decided after `on_train_epoch_end`."""
        if self._unsealed and any(early.stopped_epoch for early in self.trainer.early_stopping_callbacks):
            rank_zero_warn(
                "The experts are not sealed: the run was stopped early, before its share model.seal had passed, so "
                "pruning may change outputs. Prune with --config TILES, or pre-train with a smaller model.seal."
            )

    @property
    def _unsealed(self) -> bool:
        """Whether the encoder is still to be sealed."""
        return self.seal is not None and not self.encoder.config.sealed and bool(self.encoder.mixtures)

    def _due(self, at_end: bool = False) -> bool:
        """Whether the encoder is still to be sealed, and the share `seal` of the run has passed, or all of it."""
        if self.seal is None or not self._unsealed:
            return False
        return self.trainer.global_step >= (1.0 if at_end else self.seal) * self.trainer.estimated_stepping_batches

    def _seal(self) -> None:
        """Fixes every sensor's experts by the latest census."""
        census = {block: mixture.census for block, mixture in self.encoder.mixtures.items()}
        try:
            self.encoder.seal(sealing(self.encoder.config, census))
        except MapexError as error:  # days of training must not end for a sensor without validation tiles
            rank_zero_warn(f"The experts are not sealed: {error}")
