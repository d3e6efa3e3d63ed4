"""Masked reconstruction: one pass of encoder and decoder over tiles of which most is hidden.

Axes: B tiles, M modalities, N tokens, P numbers per patch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mapex_lightning.errors import MapexError
from mapex_lightning.model.decoder import Decoder
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.masking import PASSES, buckets, draw_view, draw_visible, see
from mapex_lightning.model.router import Assignment
from mapex_lightning.model.target import Error, Target, make_target, masked_error
from mapex_lightning.tiles import Tiles


class Reconstruction(NamedTuple):
    """One masked pass over a batch.

    Attributes:
        predictions: per modality (B, N, P), in the order of the batch.
        targets: per modality.
        visible: (B, all N) bool.
        errors: per modality, over its hidden patches.
        assignments: of each mixture, over the whole batch.
    """

    predictions: dict[str, Tensor]
    targets: dict[str, Target]
    visible: Tensor
    errors: dict[str, Error]
    assignments: dict[int, Assignment]


def reconstruct(
    encoder: Encoder,
    decoder: Decoder,
    tiles: Tiles,
    visible_share: float,
    generator: torch.Generator,
    passes: int = PASSES,
) -> Reconstruction:
    """Hides most of the tiles from the encoder and lets the decoder predict every patch.

    Args:
        encoder: the encoder.
        decoder: its decoder.
        tiles: any tiles of the encoder's modalities.
        visible_share: of the tokens of each tile's view.
        generator: of the draw, on the tiles' device.
        passes: the most passes through the encoder, each with tiles of a similar number of visible tokens. One pads
            more, and makes the number of passes the same for whatever tiles.
    """
    config = encoder.config
    tokens, counts = encoder.patchify(tiles), encoder.patchify.counts(tiles)
    # A sensor whose pixels are all nodata has no token and cannot be a view.
    present = tokens.members(len(config.names)).any(1)
    visible = draw_visible(tokens, draw_view(present, generator), visible_share, generator)
    order, parts = [], []
    assignments: dict[int, list[Assignment]] = {block: [] for block in config.mixtures}
    for bucket in buckets(visible, passes):
        memory, chosen = encoder.encode(see(tokens, bucket))
        prediction: dict[str, Tensor] = decoder(tokens.rows(bucket.rows), memory, counts)
        order.append(bucket.rows)
        parts.append(prediction)
        for block, assignment in chosen.items():
            assignments[block].append(assignment)
    if not parts:
        raise MapexError("A whole batch of tiles has no valid pixel; check nodata, unit and data.modalities.")
    rows = torch.cat(order)  # a tile of nodata alone is in no bucket: its prediction stays zero and never counts
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    predictions = {
        name: values.new_zeros(tiles.batch_size, *values.shape[1:]).index_copy(0, rows, values)
        for name, values in found.items()
    }
    targets = {n: make_target(tiles.images[n], config.modality(n), config.patch) for n in predictions}
    hidden = (tokens.present & ~visible).split(list(counts.values()), dim=1)
    return Reconstruction(
        predictions=predictions,
        targets=targets,
        visible=visible,
        errors={
            name: masked_error(predictions[name].float(), targets[name], mask)
            for name, mask in zip(predictions, hidden, strict=True)
        },
        assignments={block: _joined(found) for block, found in assignments.items()},
    )


def _joined(assignments: list[Assignment]) -> Assignment:
    return Assignment(*(torch.cat(column) for column in zip(*assignments, strict=True)))
