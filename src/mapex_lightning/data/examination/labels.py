"""Whether labels are there, are classes, and how often each class occurs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mapex_lightning.data.examination.findings import Finding, some
from mapex_lightning.data.examination.sample import Fault, Sample
from mapex_lightning.data.tileset import Split
from mapex_lightning.tiles import IGNORED, Target

RARE = 10
"""How many times as often the commonest class may occur as the rarest before one should look."""


def labels(samples: Sequence[Sample], owner: str, *, wanted: bool) -> Iterator[Finding]:
    """Findings about the labels of a data set, each for itself.

    Args:
        samples: of its splits.
        owner: the data set, for the sentences.
        wanted: whether the model of the config learns from labels.
    """
    count = len(samples[0].source.classes)
    found = [(key, label) for sample in samples for key, label in sample.labels.items()]
    faults = [fault for key, label in found if (fault := _fault(key, label, count))]
    bare = [key for key, label in found if label is None]
    total = len(found)
    if faults:
        yield Finding(
            "wrong",
            "labels",
            f"{owner}: {len(faults):,} of {total:,} labels cannot be used: {faults[0].sentence}",
            "Correct these labels, or the list of classes.",
        )
    if bare and len(bare) < total:
        yield Finding(
            "wrong",
            "labels",
            f"{owner}: {len(bare):,} of {total:,} tiles have no label, and others have: {some(bare)}.",
            "Label them or leave them out; for pre-training leave the label empty in all rows.",
        )
    elif bare and wanted:
        yield Finding(
            "wrong",
            "labels",
            f"{owner}: no tile has a label, and the model is to be fine-tuned.",
            "Add labels, or pre-train (model: Pretrain).",
        )
    elif bare:
        yield Finding("ok", "labels", f"{owner}: no tile has a label, and pre-training needs none.")


def classes(samples: Sequence[Sample], owner: str) -> Iterator[Finding]:
    """Findings about how often each class occurs, in all sets together: it is one task that a model learns.

    Args:
        samples: of all splits of sets that share their classes.
        owner: the sets, for the sentences.
    """
    names = samples[0].source.classes
    found: dict[Split, list[Target]] = {}
    for sample in samples:
        if any(_fault(key, label, len(names)) for key, label in sample.labels.items()):
            return  # said where the labels of the set are looked at
        usable = [label for label in sample.labels.values() if label is not None and not isinstance(label, Fault)]
        found.setdefault(sample.split, []).extend(usable)
    if any(found.values()):
        yield from _classes(found, samples, names, owner)


def _fault(key: str, label: Target | Fault | None, classes: int) -> Fault | None:
    """Why a label cannot be used; None where it can, or where there is none."""
    if label is None or isinstance(label, Fault):
        return label
    problem = _problem(key, label, classes)
    return Fault(key, problem) if problem else None


def _problem(key: str, label: Target, classes: int) -> str:
    """What is wrong with a label; nothing for most."""
    if isinstance(label, int | np.integer):
        inside = 0 <= label < classes
        return "" if inside else f"tile {key} has class {label}, and there are {classes} classes, 0 to {classes - 1}."
    array = np.asarray(label)
    if array.ndim == 1:
        return (
            "" if len(array) == classes else f"tile {key} has {len(array)} labels of yes or no for {classes} classes."
        )
    strange = array[(array != IGNORED) & ((array < 0) | (array >= classes))]
    return f"the mask of tile {key} holds {strange[0]}, and there are {classes} classes." if strange.size else ""


def _classes(
    found: Mapping[Split, Sequence[Target]], samples: Sequence[Sample], classes: Sequence[str], owner: str
) -> Iterator[Finding]:
    """How often each class occurs per split."""
    counts = {split: _count(its, len(classes)) for split, its in found.items()}
    sampled = any(len(sample.labels) < len(sample.keys) for sample in samples)
    what = "pixels" if samples[0].source.task == "segmentation" else "tiles"
    looked = "; ".join(
        f"{split} {sum(len(sample.labels) for sample in samples if sample.split == split):,} of "
        f"{sum(len(sample.keys) for sample in samples if sample.split == split):,} tiles"
        for split in found
    )
    basis = f"counted on a sample: {looked}" if sampled else "all tiles counted"
    train = counts.get("train", np.zeros(len(classes)))
    others = sum((its for split, its in counts.items() if split != "train"), np.zeros(len(classes)))
    lacking = [name for name, here, there in zip(classes, train, others, strict=True) if not here and there]
    unused = [name for name, here, there in zip(classes, train, others, strict=True) if not here and not there]
    clean = True
    if lacking and "train" in counts:
        clean = False
        yield Finding(
            "look" if sampled or samples[0].source.task == "multilabel" else "wrong",
            "classes",
            f"{owner}: {some(lacking)} {_occur(lacking)} in val or test and not in train ({basis}).",
            "A model cannot learn what it never sees: move some of these tiles to train, or drop the class.",
        )
    if unused:
        clean = False
        yield Finding(
            "look",
            "classes",
            f"{owner}: {some(unused)} {_occur(unused)} in no split ({basis}).",
            "Check the names of the classes; a class without tiles is never right, and 0 in miou where predicted.",
        )
    present = train[train > 0]
    if len(present) and present.max() > RARE * present.min():
        clean = False
        most, least = classes[int(train.argmax())], classes[int(np.where(train > 0, train, np.inf).argmin())]
        yield Finding(
            "look",
            "classes",
            f"{owner}: of {most} there are {train.max() / present.min():.0f} times as many {what} in train as of "
            f"{least} ({present.max():,.0f} and {present.min():,.0f}; {basis}).",
            "Look at the figures per class rather than at accuracy, and collect more of the rare class if you can.",
        )
    if clean:
        low, high = f"{train.min():,.0f}", f"{train.max():,.0f}"
        each = f"{low if low == high else f'{low} to {high}'} {what} each in train" if "train" in counts else "no train"
        yield Finding("ok", "classes", f"{owner}: {len(classes)} classes, {each} ({basis}).")


def _occur(names: Sequence[str]) -> str:
    return "occurs" if len(names) == 1 else "occur"


def _count(labels: Sequence[Target], classes: int) -> np.ndarray:
    """Tiles, or pixels of masks, per class."""
    counts = np.zeros(classes)
    for label in labels:
        array = np.asarray(label)
        if array.ndim == 1:
            counts += array
        else:
            counts += np.bincount(array[array != IGNORED].ravel(), minlength=classes)
    return counts
