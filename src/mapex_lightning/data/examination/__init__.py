"""Is my data right? Findings in plain words about any data sets, through the one interface that all of them have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from mapex_lightning.data import checksums
from mapex_lightning.data.examination.findings import Finding, Mark, counted, some
from mapex_lightning.data.examination.labels import classes, labels
from mapex_lightning.data.examination.leaks import copies, places
from mapex_lightning.data.examination.sample import Fault, Sample
from mapex_lightning.data.examination.values import Pixels, values
from mapex_lightning.data.ground import TOLERANCE
from mapex_lightning.data.sets.folder import Folder
from mapex_lightning.data.statistics import Statistics
from mapex_lightning.data.tileset import SPLITS, Split, TileSet
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality

__all__ = ["Finding", "Mark", "check_sums", "examine"]

SECONDS = 16.0
"""About how long reading may take, all sets and splits together."""

SUSPICIOUS = 0.05
"""How far pixels may be from their gsd, as a share of it, before one should look."""

SHIFT, SURE, FEW = 1.0, 4.0, 8
"""How far the means of two splits may be apart before one should look.

In deviations of the modality, and in standard errors of the means of tiles, of which there must be a few.
"""


def examine(
    sets: Sequence[TileSet],
    modalities: Sequence[Modality],
    extent: float,
    *,
    labelled: bool = True,
    wanted: bool = False,
    seconds: float = SECONDS,
) -> Iterator[Finding]:
    """Reads some tiles of every split and says what it finds; what cannot be read is a finding, not an end.

    Args:
        sets: the data sets.
        modalities: the sensors that are to be read.
        extent: the side in metres to which tiles are cropped.
        labelled: whether the sets share a task and classes, so that labels are used at all.
        wanted: whether the model learns from labels.
        seconds: about how long reading may take.
    """
    every: list[tuple[str, Sample]] = []
    for number, source in enumerate(sets):
        owner = _owner(sets, number)
        try:
            offered = [modality for modality in modalities if source.offers(modality)]
            keys = {split: source.keys(split, offered) for split in SPLITS} if offered else {}
        except MapexError as error:
            yield Finding("wrong", "files", f"{owner}: {error}", "The other checks of this set were left out.")
            continue
        if not offered:
            yield Finding(
                "wrong",
                "sensors",
                f"{owner} has none of the sensors {', '.join(modality.name for modality in modalities)}: their bands, "
                "unit or gsd are not those of its files.",
                "Leave the set out of data.sets, or ask for sensors that it has.",
            )
            continue
        if isinstance(source, Folder):
            yield Finding("ok", "files", f"{owner}: the tiles of {source.manifest.absolute()}.")
        yield from _splits(owner, keys)
        share = seconds / len(sets) / max(1, sum(bool(its) for its in keys.values()))
        samples = [Sample(source, split, its, offered, extent, share) for split, its in keys.items() if its]
        every += [(owner, sample) for sample in samples]
        yield from _set(owner, samples, offered, extent)
        if samples and labelled:
            try:
                yield from labels(samples, owner, wanted=wanted)
            except MapexError as error:
                yield Finding("wrong", "labels", f"{owner}: {error}", "Correct the labels, or the list of classes.")
    yield from _nowhere(sets, modalities)
    if labelled:
        yield from _classes(every)
    else:
        yield Finding("unknown", "labels", "The sets differ in task or classes, so their labels are not used.")
    if any(sample.read for _, sample in every):
        yield from copies([sample for _, sample in every])
        yield from places([sample for _, sample in every], [owner for owner, _ in every])


def _classes(every: Sequence[tuple[str, Sample]]) -> Iterator[Finding]:
    """How often each class occurs in the sets together."""
    owners = list(dict.fromkeys(owner for owner, _ in every))
    with suppress(MapexError):  # said where the labels of a set are looked at
        if every:
            yield from classes([sample for _, sample in every], some(owners))


def check_sums(sets: Sequence[TileSet]) -> Iterator[Finding]:
    """Compares the files below the root of every set, or beside its manifest, with their list; reads all of them."""
    folders: dict[Path, str] = {}
    for number, source in enumerate(sets):
        manifest = [source.manifest.parent] if isinstance(source, Folder) else []
        places = list(dict.fromkeys(path.absolute() for path in (source.root, *manifest)))
        listed = [place for place in places if (place / checksums.CHECKSUMS).is_file()]
        folders.update((place, _owner(sets, number)) for place in listed if place not in folders)
        if not listed:
            yield Finding(
                "unknown",
                "checksums",
                f"{_owner(sets, number)}: there is no {checksums.CHECKSUMS} to compare with in "
                f"{some([str(place) for place in places])}.",
            )
    for folder, owner in folders.items():
        yield from _compared(folder, owner)


def _compared(folder: Path, owner: str) -> Iterator[Finding]:
    """The files of one folder beside their list."""
    try:
        same, changed, missing = checksums.verify(folder)
    except MapexError as error:
        yield Finding("wrong", "checksums", f"{owner}: {error}", "Get the list anew from where the files are from.")
        return
    for files, what in ((changed, "changed since the list was made"), (missing, "missing")):
        if files:
            yield Finding(
                "wrong",
                "checksums",
                f"{owner}: {counted(len(files), 'file')} {what}: {some(files)}.",
                "Fetch or unpack these files again.",
            )
    if not changed and not missing:
        yield Finding("ok", "checksums", f"{owner}: {counted(len(same), 'file')} as listed.")


def _owner(sets: Sequence[TileSet], number: int) -> str:
    """A name for a set, with its number where there are several of its kind."""
    kinds = [type(source).__name__ for source in sets]
    return kinds[number] if kinds.count(kinds[number]) == 1 else f"{kinds[number]} (set {number + 1})"


def _splits(owner: str, keys: dict[Split, Sequence[str]]) -> Iterator[Finding]:
    """How many tiles there are, and whether an id occurs twice."""
    where: dict[str, list[str]] = {}
    for split, its in keys.items():
        for key in its:
            where.setdefault(key, []).append(split)
    twice = [f"{key} ({' and '.join(splits)})" for key, splits in where.items() if len(splits) > 1]
    empty = [split for split, its in keys.items() if not its]
    if twice:
        yield Finding(
            "wrong",
            "splits",
            f"{owner}: {counted(len(twice), 'id')} more than once: {some(twice)}.",
            "Give every tile an id of its own, and each a single split.",
        )
    for split in empty:
        yield Finding(
            "look" if split == "test" else "wrong",
            "splits",
            f"{owner}: the split {split} has no tile with a sensor of the config.",
            {
                "train": "Add tiles to train: there is nothing to learn from.",
                "val": "Add tiles to val: the best model of a run is chosen on it.",
                "test": "Without it mapex test and predict have nothing to go through; fit works.",
            }[split],
        )
    if not twice and len(empty) < len(keys):
        sizes = ", ".join(f"{len(its):,} {split}" for split, its in keys.items() if its)
        yield Finding("ok", "splits", f"{owner}: {sizes}; every id once.")


def _set(owner: str, samples: Sequence[Sample], offered: Sequence[Modality], extent: float) -> Iterator[Finding]:
    """What the tiles that were read of a set say."""
    yield from _reading(owner, samples)
    if not any(sample.read for sample in samples):
        return
    yield from _sensors(owner, samples, offered)
    yield from _size(owner, samples, offered, extent)
    for modality in offered:
        seen = [sample.pixels[modality.name] for sample in samples if modality.name in sample.pixels]
        if seen:
            yield from values(modality, _together(modality, seen), owner)
            yield from _shift(owner, modality, samples)
    yield from _pixels_on_the_ground(owner, samples, offered)


def _reading(owner: str, samples: Sequence[Sample]) -> Iterator[Finding]:
    for what, faults in (
        ("cannot be read", [fault for sample in samples for fault in sample.unread]),
        ("cannot be used", [fault for sample in samples for fault in sample.unfit]),
    ):
        if faults:
            yield _faulty(owner, what, faults, samples)
    read = sum(len(sample.read) for sample in samples)
    if not any(sample.unread or sample.unfit for sample in samples):
        total = sum(len(sample.keys) for sample in samples)
        yield Finding("ok", "reading", f"{owner}: {read:,} of {total:,} tiles read, spread over the splits.")


def _faulty(owner: str, what: str, faults: Sequence[Fault], samples: Sequence[Sample]) -> Finding:
    tried = sum(len(sample.read) + len(sample.unread) for sample in samples)
    return Finding(
        "wrong",
        "reading",
        f"{owner}: {len(faults):,} of {tried:,} tiles that were tried {what}. {faults[0].key}: {faults[0].sentence}",
        "Mend what the sentence names, or leave these tiles out. Training skips up to data.most_bad of them, "
        "evaluation none.",
    )


def _sensors(owner: str, samples: Sequence[Sample], offered: Sequence[Modality]) -> Iterator[Finding]:
    """How many of the tiles have which sensor."""
    read = sum(len(sample.read) for sample in samples)
    have = {m.name: sum(sum(s.shapes.get(m.name, Counter()).values()) for s in samples) for m in offered}
    never = [name for name, count in have.items() if not count]
    if never:
        yield Finding(
            "wrong",
            "sensors",
            f"{owner}: no tile that was read has {some(never)} ({read:,} read).",
            "Fill in its files, or leave the sensor out of data.modalities.",
        )
    else:
        shares = ", ".join(f"{name} {count / read:.0%}" for name, count in have.items())
        yield Finding("ok", "sensors", f"{owner}: share of tiles with each sensor: {shares}.")


def _size(owner: str, samples: Sequence[Sample], offered: Sequence[Modality], extent: float) -> Iterator[Finding]:
    """Rows and columns, beside what the config crops to."""
    shapes = {m.name: sum((s.shapes.get(m.name, Counter()) for s in samples), Counter()) for m in offered}
    told = ", ".join(
        f"{name} {' or '.join(f'{rows} x {columns}' for rows, columns in sorted(its)[:2])}"
        f"{' and others' if len(its) > 2 else ''}"
        for name, its in shapes.items()
        if its
    )
    shortest = min(
        min(shape) * modality.gsd for modality in offered for shape in shapes[modality.name] or [(10**9, 10**9)]
    )
    if shortest < extent:
        yield Finding(
            "look",
            "size",
            f"{owner}: tiles are {told} pixels, the shortest {shortest:g} m, and the config asks for {extent:g} m: the "
            "rest is filled with invalid pixels.",
            "Lower data.size, or cut larger tiles.",
        )
    else:
        rest = "" if shortest == extent else f", of which {extent:g} m are cropped at random in training"
        yield Finding("ok", "size", f"{owner}: {told} pixels{rest}.")


def _together(modality: Modality, seen: Sequence[Pixels]) -> Pixels:
    """What was seen in several splits, as one."""
    statistics = Statistics(modality.bands)
    for pixels in seen:
        statistics.merge(pixels.statistics)
    tiles = sum(pixels.tiles for pixels in seen)
    return Pixels(
        statistics,
        tiles,
        all(pixels.whole for pixels in seen),
        sum(pixels.blank * pixels.tiles for pixels in seen) / tiles,
        tuple(map(sum, zip(*(pixels.flat for pixels in seen), strict=True))),
        np.concatenate([pixels.means for pixels in seen]),
    )


def _shift(owner: str, modality: Modality, samples: Sequence[Sample]) -> Iterator[Finding]:
    """Whether val or test look different from train."""
    seen = {sample.split: sample.pixels[modality.name].means for sample in samples if modality.name in sample.pixels}
    train = seen.pop("train", None)
    for split, means in seen.items():
        if train is None or min(len(train), len(means)) < FEW or np.isnan([*train, *means]).any():
            continue
        gaps = np.abs(means.mean(0) - train.mean(0))
        noise = np.sqrt(means.var(0, ddof=1) / len(means) + train.var(0, ddof=1) / len(train))
        apart = (gaps > SHIFT * np.array(modality.std)) & (gaps > SURE * noise)
        if apart.any():
            worst = int(np.argmax(gaps / modality.std * apart))
            yield Finding(
                "look",
                "values",
                f"{modality.name} of {owner}: the mean of {modality.bands[worst]} in {split} is "
                f"{gaps[worst] / modality.std[worst]:.1f} deviations from that in train ({len(means)} and {len(train)} "
                "tiles).",
                "If the splits are other regions or seasons, expect lower scores; if not, check how they were made.",
            )


def _pixels_on_the_ground(owner: str, samples: Sequence[Sample], offered: Sequence[Modality]) -> Iterator[Finding]:
    """The size of pixels by the georeference, beside the gsd of the modality."""
    fine = []
    for modality in offered:
        sides = [entry for sample in samples for entry in sample.sides.get(modality.name, [])]
        if not sides:
            continue
        share, metres, key = max(sides)
        if share > SUSPICIOUS:
            yield Finding(
                "wrong" if share > TOLERANCE else "look",
                "ground",
                f"{modality.name} of {owner}: pixels are {metres:.3g} m wide by the georeference (tile {key}), and the "
                f"modality has gsd: {modality.gsd:g}.",
                "Correct gsd in the modality, or resample the files, for instance with `rio warp`.",
            )
        else:
            fine.append(f"{modality.name} {modality.gsd:g} m")
    if fine:
        yield Finding("ok", "ground", f"{owner}: pixels are as large as the modality says: {', '.join(fine)}.")


def _nowhere(sets: Sequence[TileSet], modalities: Sequence[Modality]) -> Iterator[Finding]:
    """Sensors of the config that no set has."""
    for modality in modalities:
        try:
            offered = any(source.offers(modality) for source in sets)
        except MapexError:
            continue  # said where the set is looked at
        if not offered:
            yield Finding(
                "wrong",
                "sensors",
                f"No set has {modality.name}: {', '.join(modality.bands)} in {modality.unit} at {modality.gsd:g} m.",
                "Leave it out of data.modalities, or describe it as it is in the files: bands, unit and gsd decide.",
            )
