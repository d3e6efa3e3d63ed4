"""From settings to what they describe: a checkpoint to begin with, a run folder, model, data and Trainer."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from jsonargparse import ArgumentError, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from mapex_lightning.checkpoint import describe, read
from mapex_lightning.checkpoint.safetensors import SUFFIX
from mapex_lightning.cli.devices import check, minutes, set_timeout
from mapex_lightning.cli.quirks import quiet, whole_numbers_first
from mapex_lightning.cli.sentences import sentence_of
from mapex_lightning.cli.starting import Start, place_of, start_of, with_settings
from mapex_lightning.cli.trust import check_offline, check_settings, trust
from mapex_lightning.cli.words import CONFIG, with_paths, with_scene
from mapex_lightning.data.module import TileData
from mapex_lightning.data.sets.folder import Folder
from mapex_lightning.errors import MapexError
from mapex_lightning.files import write_text
from mapex_lightning.modality import disagreements
from mapex_lightning.model.config import PRESETS
from mapex_lightning.plain_yaml import load
from mapex_lightning.runs import LAST, METRICS, RUNS, check_name, check_nothing_planted, find_checkpoint, own_checkpoint
from mapex_lightning.settings import SETTINGS, flat
from mapex_lightning.train.base import MapexModule
from mapex_lightning.train.best import Best
from mapex_lightning.train.callbacks import Bar, Pictures, PlainProgress, Predictions, Throughput
from mapex_lightning.train.checkpoint_io import WholeCheckpointIO
from mapex_lightning.train.embed import Embed
from mapex_lightning.train.last import Last
from mapex_lightning.train.log import Metrics
from mapex_lightning.train.maps import Outputs, maps_of
from mapex_lightning.train.nonfinite import SkipNonFinite
from mapex_lightning.train.prune import Prune

whole_numbers_first()


class MapexCLI(LightningCLI):
    """Parses settings and builds model, data and Trainer; `mapex_lightning.cli.run` does what was asked for.

    Args:
        command: ``fit``, ``validate``, ``test``, ``predict``, ``prune`` or ``info``.
        words: the settings.
        prune: for ``prune`` and ``info``, the arguments of `Prune`.
    """

    def __init__(self, command: str, words: Sequence[str], prune: dict[str, Any] | None = None) -> None:
        self.command = command
        self.prune = prune
        self.start = Start(Path())
        self.resume: Path | None = None
        self.place: dict[str, int] = {}
        with warnings.catch_warnings():
            # Words are passed because the command came first; the launcher of DDP re-runs sys.argv, which is whole.
            warnings.filterwarnings("ignore", ".*LightningCLI's args parameter.*")
            super().__init__(
                MapexModule,
                TileData,
                save_config_callback=None,
                seed_everything_default=0,
                parser_kwargs={"prog": f"mapex {command}", "exit_on_error": False, "allow_abbrev": False},
                subclass_mode_model=True,
                args=list(words),
                run=False,
                auto_configure_optimizers=False,
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What Lightning has no word for."""
        parser.add_argument("--ckpt", type=str | None, default=None, help="the checkpoint this command works on")
        parser.add_argument("--run", type=str | None, default=None, help="name of the run")
        default = minutes(self.command)
        parser.add_argument("--timeout", type=float, default=default, help="minutes a process waits for the others")
        parser.add_argument("--save_minutes", type=float, default=30.0, help="between two saves within an epoch")
        parser.add_argument("--compile", type=bool, default=False, help="compile what is one graph with torch.compile")
        for name in Outputs._fields if self.command == "predict" else ():
            parser.add_argument(f"--{name}", type=str | None, default=None, help="a map of a scene; see --help")
        parser.link_arguments("data.modalities", "model.init_args.modalities", apply_on="parse")
        parser.link_arguments("data.task", "model.init_args.task", apply_on="instantiate")
        parser.link_arguments("data.classes", "model.init_args.classes", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Reads the settings and makes sure that none is an address."""
        super().parse_arguments(parser, args)
        check_offline(self.config)
        check_settings(self.config)

    def before_instantiate_classes(self) -> None:
        """Decides about checkpoint and run folder before anything is built."""
        if self.config.run:
            check_name(self.config.run)
        name = self.config.run or self._config_name()
        if self.prune is not None:
            self.config.model = Namespace(class_path=_path_of(Prune), init_args=Namespace(**self.prune))
            self.start = Start(Path(self.prune["encoder"]).parent)
        elif self.command == "fit":
            self.start = start_of(self.settings(), name)
            if self.start.last:
                self._go_on(self.start.last)
            elif self.config.ckpt:
                self._start_from(find_checkpoint(self.config.ckpt))
            elif Path(encoder := self.config.model.init_args.encoder).suffix in (".ckpt", SUFFIX):
                say(f"starting from the encoder of {find_checkpoint(encoder)}")
        else:
            self.outputs.check(scene=self.command == "predict" and self.config.data.scene is not None)
            exactly = self.config.run is not None
            path = find_checkpoint(self.config.ckpt) if self.config.ckpt else own_checkpoint(name, exactly=exactly)
            self._evaluate(path)
            self.start = Start(RUNS / name if self.config.run or not self._inside_runs(path) else path.parent)

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.start.folder

    def settings(self) -> dict[str, Any]:
        """All settings by dotted name."""
        return flat(load(self._dump()))

    def _dump(self) -> str:
        text = self.parser.dump(self.config, skip_none=False, skip_link_targets=True)
        assert isinstance(text, str)
        return text

    def instantiate_classes(self) -> None:
        """Builds model, data and Trainer, unless there is nothing to do."""
        if not self.start.complete:
            super().instantiate_classes()
            if self.command == "fit":
                for source in self.datamodule.sets:
                    if isinstance(source, Folder):  # whose path may be another in another folder
                        say(f"tiles of {source.manifest.absolute()}")
                for sentence in self.disagreements():
                    say(f"look: {sentence}")

    def disagreements(self) -> list[str]:
        """Where the data say other statistics than those that the model, out of a checkpoint, normalises by."""
        return disagreements(self.model.encoder.config.modalities, self.datamodule.modalities)

    def _go_on(self, last: Path) -> None:
        self.resume, self.place = last, dict(self.start.place)
        if self.config.model.init_args.encoder not in PRESETS:
            self.config.model.init_args.encoder = str(last)  # what the run was started from need not be there any more
        if self.config.ckpt:
            say(f"--ckpt {self.config.ckpt} is where the run {self.folder.name} was to begin; it goes on from {last}")

    def _start_from(self, path: Path) -> None:
        checkpoint = read(path)
        model = self.config.model
        same = describe(checkpoint).kind == ("pretrain" if model.class_path.endswith("Pretrain") else "finetune")
        if same and "optimizer_states" in checkpoint:
            self.resume, self.place = path, place_of(checkpoint)
            if model.class_path.endswith("FineTune"):
                model.init_args.encoder = str(path)
            say(f"resuming {path}: its weights, optimiser and step count win over the config's")
        else:
            model.init_args.encoder = str(path)
            say(f"starting from the encoder of {path}: its shape and sensors win over the config's")

    def data_alone(self) -> TileData:
        """The data of the config, built without model and Trainer.

        Raises:
            MapexError: its settings cannot be used.
        """
        parser = LightningArgumentParser()
        parser.add_lightning_class_args(TileData, "data")
        data = parser.instantiate_classes(Namespace(data=self.config.data)).data
        assert isinstance(data, TileData)
        return data

    @property
    def outputs(self) -> Outputs:
        """Where maps of a scene go."""
        return Outputs(*(self.config.get(name) for name in Outputs._fields))

    def _evaluate(self, path: Path) -> None:
        found = describe(read(path))
        if self.outputs.embeddings is not None:
            self.config.model = Namespace(class_path=_path_of(Embed), init_args=Namespace(encoder=str(path)))
            say(f"features of {path}")
            return
        wanted = "pretrain" if self.config.model.class_path.endswith("Pretrain") else "finetune"
        if found.kind != wanted or (wanted == "finetune" and found.head is None):
            raise MapexError(
                f"mapex {self.command} with this config needs a checkpoint of {wanted}; {path} is one of {found.kind}. "
                "Fine-tune it first (mapex fit --config ... --ckpt FILE), or give another with --ckpt."
            )
        self.config.model.init_args.encoder = str(path)
        if wanted == "finetune":
            self.config.model.init_args.pretrained = True  # False, for a control, says how its run began
        say(f"evaluating {path}")

    def _config_name(self) -> str:
        given = self.config.config or []
        return Path(str(given[0])).stem if given else "run"

    @staticmethod
    def _inside_runs(path: Path) -> bool:
        return path.resolve().parent.parent == RUNS.resolve()

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The Trainer, with loggers, callbacks and safe checkpoints of our own."""
        settings = {**self.config_init.trainer.as_dict(), **kwargs}
        set_timeout(self.config_init.timeout)
        check(settings, os.environ)
        fitting = self.command == "fit"
        check_nothing_planted(self.folder)
        settings["default_root_dir"] = str(self.folder)
        ours = self._callbacks(fitting, logged=settings["logger"] is not False)
        settings["callbacks"] = [*(settings["callbacks"] or []), *ours]
        settings["plugins"] = [*_listed(settings["plugins"]), WholeCheckpointIO()]
        settings["use_distributed_sampler"] = False  # data.sampler shares tiles out over the ranks
        settings["enable_checkpointing"] = fitting
        if self.resume:
            settings["num_sanity_val_steps"] = 0  # it was done when the run began
        settings["enable_model_summary"] = settings["enable_model_summary"] is True  # a line of ours says as much
        settings["enable_progress_bar"] = sys.stdout.isatty() and settings["enable_progress_bar"] is not False
        if settings["logger"] is None or settings["logger"] is True:
            settings["logger"] = self._loggers() if fitting else False
        return pl.Trainer(**settings)

    def _loggers(self) -> list[Any]:
        return [
            TensorBoardLogger(self.folder, name="", version="tensorboard"),
            Metrics(self.folder / METRICS),
        ]

    def _callbacks(self, fitting: bool, logged: bool) -> list[Callback]:
        if self.command == "predict":
            scene = self.datamodule.scene is not None
            maps = maps_of(self.model, self.datamodule, self.outputs) if scene else None
            return [maps or Predictions(self.folder / "predictions")]
        if not fitting:
            return []
        throughput = Throughput()
        best = Best(self.folder, self.model)
        last = Last(self.folder / LAST, self.config.save_minutes, named=self.config.run is not None)
        progress = Bar(throughput) if sys.stdout.isatty() else PlainProgress(throughput)
        rates = [LearningRateMonitor("step")] if logged else []
        kept = [] if self.config.trainer.fast_dev_run else [best, last]
        return [SkipNonFinite(), throughput, progress, Pictures(self.folder / "pictures"), *rates, *kept]

    def save_settings(self) -> None:
        """Writes all settings of the run, as it begins."""
        write_text(self.folder / SETTINGS, self._dump())


def _path_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def say(sentence: str) -> None:
    """Prints a line once, whatever the number of processes; a Trainer, which knows its rank, may not be there yet."""
    if int(os.environ.get("LOCAL_RANK", "0")) == 0 and int(os.environ.get("SLURM_PROCID", "0")) == 0:
        print(sentence, flush=True)


def build(
    command: str, words: Sequence[str], prune: dict[str, Any] | None = None, kind: type[MapexCLI] = MapexCLI
) -> MapexCLI:
    """Parses settings and builds what they describe.

    Args:
        command: the command.
        words: the settings.
        prune: see `MapexCLI`.
        kind: what builds.

    Raises:
        MapexError: a setting is unknown or cannot be used.
    """
    words = with_scene(with_paths(trust(list(words))))
    words = with_settings(words) if command == "fit" else words
    quiet()
    if "--help-all" in words:
        words = ["--help"]
    if command != "prune" and not {"--help", *CONFIG} & {word.split("=")[0] for word in words}:
        raise MapexError(f"mapex {command} needs a config, such as: mapex {command} --config pretrain.yaml.")
    try:
        return kind(command, words, prune)
    except (ArgumentError, ValueError, MisconfigurationException) as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        raise sentence from None


class _DataAlone(MapexCLI):
    """Reads the whole config, so that a mistyped setting is found, and builds the data without model and Trainer."""

    def before_instantiate_classes(self) -> None:
        """There is neither a checkpoint nor a run folder."""

    def instantiate_classes(self) -> None:
        """Builds the data."""
        self.datamodule = self.data_alone()


def data_of(command: str, words: Sequence[str]) -> TileData:
    """The data that a config describes.

    Args:
        command: who asks, for messages.
        words: config and settings.

    Raises:
        MapexError: a setting is unknown or cannot be used.
    """
    data = build(command, words, kind=_DataAlone).datamodule
    assert isinstance(data, TileData)
    return data
