"""The model card: what a file of weights is, for people and for hubs that read its front matter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from mapex_lightning.checkpoint import KEY, Description, describe, read, write_safetensors
from mapex_lightning.errors import MapexError
from mapex_lightning.export.program import chosen
from mapex_lightning.files import write_folder_whole
from mapex_lightning.info import KINDS, Info, heading_of, inform
from mapex_lightning.modality import Modality
from mapex_lightning.pruning import Policy, prune

WEIGHTS, CARD = "model.safetensors", "README.md"
"""The files of an export."""

UNKNOWN = "unknown"
"""The licence of weights whose maker has not said which, in the words of the hub."""


def write_weights(
    checkpoint: Mapping[str, Any], source: str, out: Path, *, keep: Sequence[str] = (), licence: str = UNKNOWN
) -> Path:
    """Writes a checkpoint as safetensors with a model card, into a folder; whole or not at all.

    Args:
        checkpoint: as `mapex_lightning.checkpoint.read` returns it.
        source: where it comes from.
        out: the folder, which must not exist.
        keep: the sensors to keep; all, if none are named.
        licence: under which the weights are shared, in the words of the hub.

    Returns:
        The file of the weights.

    Raises:
        MapexError: a sensor is unknown, some are left out of a model that is not sealed, or the folder exists or cannot
            be written to.
    """
    names, config = chosen(checkpoint, keep), describe(checkpoint).encoder
    if names != config.names:
        if not config.sealed:
            raise MapexError(
                f"{source} is not sealed, so leaving sensors out changes its output. Prune it first, by a rule of your "
                f"choice: mapex prune --ckpt {source} --keep {','.join(names)}."
            )
        checkpoint = prune(checkpoint, names, Policy("sealed"))[0]
    if out.exists():
        raise MapexError(f"{out} exists already; give another folder with --out, or take it away first.")

    def fill(folder: Path) -> None:
        folder.mkdir()
        file = folder / WEIGHTS
        write_safetensors(checkpoint, file)
        found = read(file)
        assert found[KEY] == checkpoint[KEY]
        assert all(torch.equal(found["state_dict"][name], value) for name, value in checkpoint["state_dict"].items())
        (folder / CARD).write_text(card(inform(file), licence), encoding="utf-8")

    write_folder_whole(out, fill)
    return out / WEIGHTS


def card(info: Info, licence: str = UNKNOWN) -> str:
    """The model card of a checkpoint, in Markdown with front matter.

    It says what the file itself knows and no more: figures of quality are its maker's to measure and to add.

    Args:
        info: what the checkpoint is.
        licence: of the weights.
    """
    description = info.description
    config = description.encoder
    tags = ["remote-sensing", "earth-observation", "satellite", "mixture-of-experts", "mapex", *config.names]
    front: dict[str, Any] = {"license": licence, "library_name": "mapex-lightning", "tags": tags}
    if description.head is not None:
        front["pipeline_tag"] = PIPELINES[description.head["task"]]
    total = sum(info.parameters.values())
    blocks = [[str(block), f"{count} experts" if count else "dense"] for block, count in enumerate(config.experts)]
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# A {KINDS[description.kind]} encoder of {_as_text(', '.join(config.names))}",
        "A vision transformer for satellite tiles, in part of whose blocks the feed-forward is a mixture of experts: "
        f"{info.shape()}.",
        *_head(description),
        "## What it reads",
        "Co-registered tiles of these sensors, any of them or all, as physical values. Bands by name, in this order; "
        "means and standard deviations are those that the model normalises by. A pixel that is not finite is invalid.",
        *(_sensor(modality) for modality in config.modalities),
        "## What it is made of",
        _table([["part", "parameters"], *([p, f"{n:,}"] for p, n in info.parameters.items()), ["all", f"{total:,}"]]),
        _table([["block", "feed-forward"], *blocks]),
        "## Where it comes from",
        "\n".join(f"{number}. {_as_text(step)}" for number, step in enumerate(description.lineage, 1)),
        f"Written in format {info.versions['format']} by {_as_text(info.writers())}.",
        "## How to load it",
        LOADING.format(name=config.names[0], bands=len(config.modalities[0].bands), side=8 * config.patch),
        "## What is not known",
        NOT_KNOWN.format(licence="" if licence != UNKNOWN else " Its maker has not said under which licence it is."),
        "## Whose it is",
        WHOSE,
    ]
    return "\n\n".join(parts) + "\n"


def _as_text(words: str) -> str:
    """What a description says, as text that Markdown leaves as it is: a stranger may have written it."""
    return re.sub(r"([\\`*_\[\]<>|&!$~#])", r"\\\1", words)


PIPELINES = {
    "multiclass": "image-classification",
    "multilabel": "image-classification",
    "segmentation": "image-segmentation",
}
"""The words of the hub for our tasks."""

LOADING = """\
```python
import torch
from mapex_lightning.checkpoint import load
from mapex_lightning.tiles import Tiles

encoder = load("model.safetensors")
tiles = Tiles.of({name}=torch.zeros(1, {bands}, {side}, {side}))  # your pixels, in the unit above
vectors = encoder.pooled(tiles)
```

All commands of mapex take the file as `--ckpt model.safetensors`. Its weights are plain tensors and its description
is JSON: loading it runs no code."""

NOT_KNOWN = """\
The file does not say which tiles it was trained on, nor how well it does on any: ask its maker, or measure it on your
own. No figure stands here because none was measured when it was written.{licence}"""

WHOSE = """\
The idea was published as MAPEX ([arXiv:2507.07527](https://arxiv.org/abs/2507.07527)). mapex-lightning is an
independent implementation: the paper's authors took no part in it, none of their code or weights is in it, and the
paper's figures are not those of this file."""


def _head(description: Description) -> list[str]:
    if description.head is None:
        return []
    classes = description.head["classes"]
    return [f"Its head does {description.head['task']} of {len(classes)} classes: {_as_text(', '.join(classes))}."]


def _sensor(modality: Modality) -> str:
    rows = zip(modality.bands, modality.mean, modality.std, strict=True)
    table = [["band", "mean", "std"], *([_as_text(band), f"{mean:g}", f"{std:g}"] for band, mean, std in rows)]
    return f"### {_as_text(heading_of(modality))}\n\n{_table(table)}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{'---|' * len(rows[0])}", *rest])
