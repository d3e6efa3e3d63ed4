"""What a config may do, which a stranger may have written: name classes of a list, and nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

import yaml
from jsonargparse import Namespace, get_loader, set_loader, set_parsing_settings
from lightning.pytorch import callbacks, loggers, profilers, strategies

from mapex_lightning.data import sets
from mapex_lightning.data.scenes.scene import Reading
from mapex_lightning.data.sets.torchgeo.channels import Channels
from mapex_lightning.errors import MapexError
from mapex_lightning.modality import Modality
from mapex_lightning.model.auxiliary import Auxiliary
from mapex_lightning.model.decoder import DecoderConfig
from mapex_lightning.plain_yaml import read_by
from mapex_lightning.pruning import Policy
from mapex_lightning.train.embed import Embed
from mapex_lightning.train.finetune import FineTune
from mapex_lightning.train.optim import Optimiser
from mapex_lightning.train.pretrain import Pretrain
from mapex_lightning.train.prune import Prune

OURS = (
    *(Pretrain, FineTune, Embed, Prune),
    *(getattr(sets, name) for name in sets.__all__),
    *(Modality, Reading, Channels, Optimiser, Auxiliary, DecoderConfig, Policy),
)
"""Classes of ours that a config may name. None of them runs what it is given."""

THEIRS = (
    callbacks.DeviceStatsMonitor,
    callbacks.EarlyStopping,
    callbacks.EMAWeightAveraging,
    callbacks.LearningRateMonitor,
    callbacks.ModelCheckpoint,
    callbacks.ModelSummary,
    callbacks.RichModelSummary,
    callbacks.RichProgressBar,
    callbacks.StochasticWeightAveraging,
    callbacks.TQDMProgressBar,
    loggers.CSVLogger,
    loggers.TensorBoardLogger,
    profilers.AdvancedProfiler,
    profilers.PassThroughProfiler,
    profilers.PyTorchProfiler,
    profilers.SimpleProfiler,
    strategies.DDPStrategy,
    strategies.FSDPStrategy,
    strategies.ModelParallelStrategy,
    strategies.SingleDeviceStrategy,
)
"""Classes of Lightning that a config may name.

Left out: what calls functions that it is given (LambdaCallback, ModelPruning, BackboneFinetuning, ThroughputMonitor);
what reads files that it finds (OnExceptionCheckpoint, SpikeDetection, BatchSizeFinder, LearningRateFinder); loggers
that send figures away (wandb, MLflow, Comet, Neptune); DeepSpeed, whose checkpoints are pickles; and plugins, which
would take the place of the safe reading and writing of checkpoints. GradientAccumulationScheduler changes how many
steps an epoch has, by which schedules and runs that go on would go wrong. Timer cannot be written into the settings of
a run; ``trainer.max_time`` makes one.
"""

OPTION = "--trust"

_read_yaml = get_loader("yaml")
_once_trusted: set[str] = set()
"""Packages that an earlier command of this process was told to trust: jsonargparse never forgets."""


def trust(words: list[str]) -> list[str]:
    """Takes ``--trust PKG`` out of the words and limits what configs may name, read and import.

    Raises:
        MapexError: the package is missing or has no name of a package.
    """
    rest: list[str] = []
    packages: set[str] = set()
    given = iter(words)
    for word in given:
        if word != OPTION and not word.startswith(f"{OPTION}="):
            rest.append(word)
            continue
        package = next(given, "") if word == OPTION else word.removeprefix(f"{OPTION}=")
        if not all(part.isidentifier() for part in package.split(".")) or package.split(".")[0] == "jsonargparse":
            raise MapexError(f"{OPTION} needs the name of a package, such as {OPTION} mypackage; found {package!r}.")
        packages.add(package)
    os.environ.pop("JSONARGPARSE_DEFAULT_ENV", None)  # it would take settings from environment variables
    set_parsing_settings(
        import_path_denylist=["*", *(_once_trusted - packages)],
        import_path_allowlist=[*(path for kind in (*OURS, *THEIRS) for path in paths_of(kind)), *packages],
        config_read_mode_urls_enabled=False,
        config_read_mode_fsspec_enabled=False,  # Lightning turns it on
        instantiate_subclass_spec_in_any=False,
    )
    set_loader("yaml", _checked, (yaml.YAMLError,))
    _once_trusted.update(packages)
    return rest


def _checked(text: str) -> Any:
    """YAML as jsonargparse reads it, after a look at its size."""
    return read_by(_read_yaml, text)


def paths_of(kind: type) -> list[str]:
    """The import paths of a class: where it is defined, and the packages around that which hand it on."""
    around = accumulate(kind.__module__.split("."), "{}.{}".format)
    return [f"{name}.{kind.__name__}" for name in around if getattr(sys.modules.get(name), kind.__name__, None) is kind]


def check_offline(config: Namespace) -> None:
    """Makes sure that no setting is the address of something elsewhere.

    Raises:
        MapexError: one is.
    """
    for place, word in _words(config.as_dict(), ""):
        if "://" in word:
            raise MapexError(
                f"{place} is {word!r}, an address, and mapex reads and writes local files only; download it, and give "
                "the path."
            )


def check_settings(config: Namespace) -> None:
    """Makes sure that no class of the list is given settings that only show to be wrong when it is used.

    Raises:
        MapexError: one is.
    """
    listed = {path for kind in (*OURS, *THEIRS) for path in paths_of(kind)}
    for place, table in _tables(config.as_dict(), ""):
        if table.get("dict_kwargs") and table.get("class_path") in listed:
            raise MapexError(f"{place} has dict_kwargs, which nobody checks. Give its settings as init_args.")


def _tables(value: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every table in the settings, with its place."""
    if isinstance(value, Mapping):
        yield place, value
    inside = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inside:
        yield from _tables(one, f"{place}.{name}".lstrip("."))


def _words(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text in the settings, with its place."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for name, inside in value.items():
            yield from _words(inside, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list | tuple):
        for inside in value:
            yield from _words(inside, place)
