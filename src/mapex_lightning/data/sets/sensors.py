"""Which of a data set's sensors a modality can be taken from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality


class Sensor(NamedTuple):
    """What a data set stores for one sensor.

    Attributes:
        bands: the bands by name, in stored order.
        unit: what a stored value is, in the words of `Modality.unit`.
        gsd: metres per pixel of the grid on which tiles are handed over.
        nodata: the stored value of invalid pixels, where the files do not declare it.
        side: rows and columns of that grid, where each band lies in a file of its own and some are coarser; None is
            the grid of the finest band that is asked for.
        blank: the value that all bands of a pixel hold where there is no data; one band alone may measure it, as the
            short-wave infrared measures 0 over water.
        power: whether the files hold backscatter as power; it is handed over in dB.
        described: what the files call the bands, where they call them otherwise.
    """

    bands: tuple[str, ...]
    unit: str
    gsd: float
    nodata: float | None = None
    side: int | None = None
    blank: float | None = None
    power: bool = False
    described: tuple[str, ...] = ()


def holds(sensor: Sensor, modality: Modality) -> bool:
    """Whether a sensor has all bands of a modality, in its unit and on its grid."""
    return set(modality.bands) <= set(sensor.bands) and (modality.unit, modality.gsd) == (sensor.unit, sensor.gsd)


def sensor_of(modality: Modality, sensors: Mapping[str, Sensor], owner: str) -> str:
    """The sensor that holds all bands of a modality in its unit and on its grid.

    Bands and unit decide, not the modality's name, so that a band group or a sensor block of the
    user's own finds its pixels too. Only where several sensors have the same bands, such as pictures from before and
    after an event, the name says which one is meant.

    Args:
        modality: what is wanted.
        sensors: what the data set offers, by name.
        owner: the data set, for the message.

    Returns:
        The sensor's name.

    Raises:
        MapexError: no sensor has these bands in this unit at this resolution, or several have and none has the name.
    """
    found = [name for name, sensor in sensors.items() if holds(sensor, modality)]
    if modality.name in found:
        return modality.name
    if len(found) == 1:
        return found[0]
    if found:
        raise MapexError(
            f"{owner} has the bands of modality {modality.name} ({' '.join(modality.bands)}) more than once, as "
            f"{' and '.join(found)}. Name the modality like the one that you want."
        )
    offers = "; ".join(
        f"{name}: {' '.join(sensor.bands)} in {sensor.unit} at {sensor.gsd:g} m" for name, sensor in sensors.items()
    )
    raise MapexError(
        f"{owner} cannot give modality {modality.name} ({' '.join(modality.bands)} in {modality.unit} "
        f"at {modality.gsd:g} m). It offers any bands of one of these: {offers}."
    )
