"""A fingerprint changes with what tiles are made of, and with nothing else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mapex_lightning.data.fingerprint import digest_of, settings_of, stamp
from mapex_lightning.data.sets import Synthetic, TorchGeo
from mapex_lightning.data.sets.packed import Packed
from mapex_lightning.data.sets.torchgeo.channels import Channels
from mapex_lightning.modality import MODALITIES


@dataclass
class Part:
    """A setting with settings."""

    bands: tuple[str, ...]


class Owner:
    """Has settings, and what it finds out."""

    def __init__(self) -> None:
        self.root, self.share, self.parts = Path("data"), 0.5, {"s1": Part(("VV",))}
        self.task, self.opened, self._cache = "multiclass", object(), 3

    @cached_property
    def found(self) -> int:
        return 7


def test_settings_are_the_plain_attributes_that_were_given() -> None:
    owner = Owner()
    assert owner.found == 7
    wanted = {"root": "data", "share": 0.5, "parts": {"s1": {"bands": ["VV"]}}}
    assert settings_of(owner, without=("task",)) == wanted


def test_facts_have_an_order_and_the_entries_of_a_setting_none() -> None:
    assert digest_of([{"a": 1, "b": 2}, 3]) == digest_of([{"b": 2, "a": 1}, 3])
    assert digest_of([1, 2]) != digest_of([2, 1])
    assert digest_of(["1", "2"]) != digest_of(["12"])


def test_a_file_is_another_when_its_size_or_time_of_change_is(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    seen = [stamp(path)]
    for content, time in ((b"a", 1), (b"ab", 1), (b"ab", 2)):
        path.write_bytes(content)
        os.utime(path, ns=(time, time))
        seen.append(stamp(path))
    assert len(set(seen)) == 4
    assert seen[0] == (str(path), -1, 0)


def test_a_data_set_of_another_seed_has_another_fingerprint() -> None:
    s1 = [MODALITIES["s1"]]
    assert Synthetic(seed=1).fingerprint(s1) == Synthetic(seed=1).fingerprint(s1) != Synthetic(seed=2).fingerprint(s1)


def test_whether_torchgeo_fetches_is_no_matter() -> None:
    def of(scale: float, **arguments: bool) -> str:
        channels = Channels(("VV",), "dB", 10.0, scale=scale)
        return TorchGeo("EuroSAT", {"s1": channels}, arguments=arguments).fingerprint([])

    assert of(1.0) == of(1.0, download=True, checksum=True)
    assert len({of(1.0), of(2.0), of(1.0, other=True)}) == 3


def test_a_packed_store_has_the_fingerprint_of_its_checksums(tmp_path: Path) -> None:
    def of(text: str) -> str:
        (tmp_path / "checksums.sha256").write_text(text)
        return Packed(tmp_path).fingerprint([])

    assert of("a") == of("a") != of("b")
