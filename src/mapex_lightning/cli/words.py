"""The words of a command line before settings are read: configs by name, the files of a scene."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from mapex_lightning.errors import MapexError, unknown

CONFIG = ("--config", "-c")
"""The words before the name of a config."""

SCENE = "--data.scene"
"""The word before the files of a scene."""


def packaged_configs() -> Path:
    """The folder of the configs that come with the package, in a wheel or in a checkout."""
    inside = Path(str(files("mapex_lightning"))) / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "configs"


def config_file(name: str) -> Path:
    """A config as given, in ``./configs/``, or among those that come with the package.

    Raises:
        MapexError: there is none; the sentence lists the names that exist.
    """
    packaged = packaged_configs()
    for candidate in (Path(name), Path("configs") / name, packaged / name):
        if candidate.is_file():
            return candidate
    known = [file.name for folder in {packaged, Path("configs")} for file in folder.glob("*.yaml")]
    raise unknown("config", name, set(known), "Or give the path of a YAML file of your own")


def with_paths(words: list[str]) -> list[str]:
    """The words with the names of configs resolved by `config_file`."""
    found = list(words)
    for at, word in enumerate(words):
        if word in CONFIG and at + 1 < len(words):
            found[at + 1] = str(config_file(words[at + 1]))
        elif word.startswith("--config="):
            found[at] = f"--config={config_file(word.removeprefix('--config='))}"
    return found


def with_scene(words: list[str]) -> list[str]:
    """The words with the files after ``--data.scene`` as one: of each sensor for ``s2=A.tif s1=B.tif``, else a list."""
    words = [part for word in words for part in (word.split("=", 1) if word.startswith(f"{SCENE}=") else [word])]
    if SCENE not in words:
        return words
    start = words.index(SCENE) + 1
    end = next((at for at in range(start, len(words)) if words[at].startswith("-")), len(words))
    files = [word.removesuffix(",") for word in words[start:end]]  # A.tif, B.tif as one writes a list
    if not all(files) or not files:  # an unset variable in quotes is an empty word
        raise MapexError(f"{SCENE} needs the files of a scene, such as {SCENE} s2=A.tif s1=B.tif.")
    if files[0][0] in "{[":  # YAML
        return words
    named: dict[str, list[str]] = {}
    for file in files:
        sensor, equals, path = file.partition("=")
        if equals and sensor.isidentifier():
            named.setdefault(sensor, []).append(path)
    if named and sum(map(len, named.values())) < len(files):
        raise MapexError(f"{SCENE} takes files with a sensor before each, such as s2=A.tif, or without one throughout.")
    return [*words[: start - 1], f"{SCENE}={json.dumps(named or files)}", *words[end:]]
