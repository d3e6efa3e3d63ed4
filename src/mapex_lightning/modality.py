"""What a sensor's pixels mean: bands, unit, resolution and statistics."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mapex_lightning.errors import MapexError, unknown

S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")


@dataclass(frozen=True)
class Modality:
    """One kind of image, as a model sees it.

    Nothing that changes the meaning of a pixel has a default: a wrong unit or a wrong mean is
    silent, and silent is worse than missing.

    Args:
        name: the word for this modality in configs, checkpoints and tables.
        bands: the bands by name, in the order in which the model stores them.
        gsd: ground sampling distance in metres per pixel.
        unit: what a pixel value is, such as ``"dB"`` or ``"reflectance x 10000"``.
        mean: mean per band, in ``unit``.
        std: standard deviation per band, in ``unit``.
        speckle: True for coherent sensors, whose pixels carry multiplicative speckle. It cannot be
            predicted from its surroundings, so pre-training reconstructs a smoothed target.

    Raises:
        MapexError: a field contradicts another or is out of range.
    """

    name: str
    bands: tuple[str, ...]
    gsd: float
    unit: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    speckle: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.bands, str) or not all(isinstance(band, str) for band in self.bands):
            raise MapexError(
                f"Modality {self.name} names its bands in a list of words, such as [B02, B03] or ['1', '2']; found "
                f"{self.bands!r}."
            )
        if not all(word.isprintable() for word in (self.unit, *self.bands)):
            raise MapexError(
                f"Modality {self.name} has a unit or a band that is no plain line of text: {self.bands!r}."
            )
        object.__setattr__(self, "bands", tuple(self.bands))
        object.__setattr__(self, "gsd", _number(self.gsd))
        for field in ("mean", "std"):
            object.__setattr__(self, field, tuple(map(_number, getattr(self, field))))
        if not self.name.isidentifier():
            raise MapexError(f"A modality's name must be a plain word such as s2; found {self.name!r}.")
        if not self.bands or len(set(self.bands)) != len(self.bands):
            raise MapexError(f"Modality {self.name} needs at least one band and no band twice; found {self.bands}.")
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != len(self.bands) or not all(map(math.isfinite, values)):
                raise MapexError(
                    f"Modality {self.name} has {len(self.bands)} bands and needs as many finite numbers "
                    f"in `{field}`; found {list(values)}."
                )
        if min(self.std) <= 0 or not (math.isfinite(self.gsd) and self.gsd > 0):
            raise MapexError(f"Modality {self.name} needs a positive std per band and a positive gsd in metres.")

    def describe(self) -> dict[str, Any]:
        """Plain types that survive JSON and ``weights_only`` loading."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Modality:
        """The inverse of `describe`; also reads a YAML block.

        Raises:
            MapexError: a key is unknown or a required one is missing.
        """
        names = [field.name for field in fields(cls)]
        for key in description:
            if key not in names:
                raise unknown("modality field", str(key), names)
        missing = [name for name in names if name not in description and name != "speckle"]
        if missing:
            raise MapexError(
                f"Modality {description.get('name', '?')} lacks {', '.join(missing)}. "
                "Unit, resolution and statistics have no defaults: give them per band."
            )
        try:
            return cls(**description)
        except (TypeError, AttributeError) as error:
            raise MapexError(
                f"Modality {description['name']} has a field of the wrong kind ({error}): name and unit are words, gsd "
                "is a number, bands, mean and std are lists."
            ) from error


def _number(value: float) -> float:
    """A number as it was given; infinity for a whole one that no float can hold."""
    return math.inf if isinstance(value, int) and abs(value) > sys.float_info.max else value


def _sentinel2_group(name: str, *bands: str) -> Modality:
    """A Sentinel-2 band group as a modality of its own, for pruning inside one sensor."""
    at = [S2_BANDS.index(band) for band in bands]
    return Modality(name, bands, 10.0, _S2.unit, tuple(_S2.mean[i] for i in at), tuple(_S2.std[i] for i in at))


# Statistics: s2 from 100 unlabelled Sentinel-2 L2A tiles and 54 BigEarthNet patches, s1 from the same patches
# (snow and cloud among them), rgb from 425 EuroSAT images; all measured by us and rounded. dem is a
# convention (heights spread over the lowlands), as is landsat (surface reflectance, collection 2, as a fraction).
_S2 = Modality(
    name="s2",
    bands=S2_BANDS,
    gsd=10.0,
    unit="reflectance x 10000",
    mean=(345.0, 360.0, 560.0, 520.0, 830.0, 1550.0, 1790.0, 1860.0, 1930.0, 1920.0, 1280.0, 815.0),
    std=(290.0, 380.0, 470.0, 590.0, 680.0, 1190.0, 1410.0, 1500.0, 1530.0, 1490.0, 1120.0, 820.0),
)  # fmt: skip

MODALITIES: dict[str, Modality] = {
    modality.name: modality
    for modality in (
        Modality("s1", ("VV", "VH"), 10.0, "dB", (-12.5, -19.0), (5.2, 5.8), speckle=True),
        _S2,
        Modality("rgb", ("R", "G", "B"), 10.0, "8-bit", (90.0, 98.0, 105.0), (52.0, 34.5, 29.0)),
        Modality("dem", ("elevation",), 10.0, "metres", (300.0,), (350.0,)),
        Modality(
            "landsat",
            ("blue", "green", "red", "nir", "swir1", "swir2"),
            30.0,
            "reflectance",
            (0.05, 0.08, 0.08, 0.24, 0.19, 0.12),
            (0.04, 0.05, 0.06, 0.11, 0.10, 0.08),
        ),
        _sentinel2_group("s2_rgb", "B04", "B03", "B02"),
        _sentinel2_group("s2_rededge", "B05", "B06", "B07"),
        _sentinel2_group("s2_nir", "B08", "B8A"),
        _sentinel2_group("s2_swir", "B11", "B12"),
    )
}


def modalities(given: Iterable[str | Modality | Mapping[str, Any]]) -> tuple[Modality, ...]:
    """Looks names up in `MODALITIES`; a mapping or a `Modality` is a sensor of the user's own.

    Args:
        given: names, descriptions and modalities, mixed as one likes.

    Returns:
        The modalities, in the order given.

    Raises:
        MapexError: a name is unknown, given twice, or the list is empty.
    """
    found: list[Modality] = []
    for entry in given:
        if isinstance(entry, Modality):
            found.append(entry)
        elif isinstance(entry, Mapping):
            found.append(Modality.of(entry))
        elif entry in MODALITIES:
            found.append(MODALITIES[entry])
        else:
            raise unknown("modality", str(entry), MODALITIES, "A sensor of your own is a YAML block of its fields")
    names = [modality.name for modality in found]
    if not names or len(set(names)) != len(names):
        raise MapexError(f"Wanted one or more modalities, each once; found {names or 'none'}.")
    return tuple(found)


FAR, WIDE = 3.0, 5.0
"""Deviations between two means, and times between two deviations, that are hardly those of one kind of data."""


def disagreements(encoder: Iterable[Modality], data: Iterable[Modality]) -> list[str]:
    """Where the statistics of data are far from those that an encoder normalises by, which are what counts.

    Modalities of one name and bands of one name are compared. A modality of the data that is one of `MODALITIES`, as
    where a config names it by a word, says nothing of the data.

    Args:
        encoder: the modalities of the encoder.
        data: those that the data are described by.

    Returns:
        A sentence per modality, about the band that is farthest off.
    """
    own = {modality.name: modality for modality in encoder}
    described = [its for its in data if its.name in own and its != MODALITIES.get(its.name)]
    return [said for its in described if (said := _disagreement(own[its.name], its))]


def _disagreement(own: Modality, data: Modality) -> str:
    """The worst of what two descriptions of one name say of their bands; empty where all are near."""
    found: list[tuple[float, str]] = []
    theirs = dict(zip(data.bands, zip(data.mean, data.std, strict=True), strict=True))
    for band, mean, std in zip(own.bands, own.mean, own.std, strict=True):
        if band not in theirs:
            continue
        other, spread = theirs[band]
        apart, times = abs(other - mean) / std, max(spread / std, std / spread)
        by, far = f"the encoder normalises {own.name} {band} by", "another unit, offset or place?"
        if apart > FAR:
            found.append(
                (apart / FAR, f"{by} {mean:.4g}, and the data say {other:.4g} ({apart:.1f} deviations): {far}")
            )
        elif times > WIDE:
            said = f"{by} a deviation of {std:.4g}, and the data say {spread:.4g} ({times:.3g} times): {far}"
            found.append((times / WIDE, said))
    return max(found, default=(0.0, ""))[1]
