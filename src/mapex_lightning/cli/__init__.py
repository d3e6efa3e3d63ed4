"""The commands that need a Trainer: fit, validate, test and predict."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException

from mapex_lightning.checkpoint import read
from mapex_lightning.cli.building import MapexCLI, build, say
from mapex_lightning.cli.devices import batch_line
from mapex_lightning.cli.sentences import sentence_of
from mapex_lightning.cli.starting import RUN_FOLDER, begun, check_processes
from mapex_lightning.errors import MapexError
from mapex_lightning.files import sweep
from mapex_lightning.runs import LAST, model_of
from mapex_lightning.text import aligned, indented
from mapex_lightning.train.base import MapexModule, shape_of
from mapex_lightning.train.callbacks import write_confusion, write_results
from mapex_lightning.train.compiled import check_compiler, compile_in_place
from mapex_lightning.train.embed import Embed
from mapex_lightning.train.finetune import FineTune
from mapex_lightning.train.liveness import watched_ranks
from mapex_lightning.train.memory import enough_memory
from mapex_lightning.train.metrics import by_class
from mapex_lightning.train.pretrain import Pretrain
from mapex_lightning.train.resuming import check_resumable


def run(command: str, words: Sequence[str]) -> None:
    """Runs fit, validate, test or predict.

    Raises:
        MapexError: something that was given cannot be used.
    """
    try:
        cli = build(command, words)
        try:
            _run(cli, command)
        except (
            MisconfigurationException,
            ValueError,
            RuntimeError,
        ) as error:  # settings that do not fit, found as training begins
            raise sentence_of(error) or error from error
        except SystemExit as stop:  # Lightning's way to end after Ctrl-C
            raise KeyboardInterrupt(_left_behind(cli)) from stop
    finally:
        os.environ.pop(RUN_FOLDER, None)  # a later run of the same process has a folder of its own


def _left_behind(cli: MapexCLI) -> str:
    """What a run that was ended with Ctrl-C has kept; empty where it is nothing."""
    last = cli.folder / LAST
    if cli.command != "fit" or not cli.trainer.is_global_zero:
        return ""
    if not last.is_file():
        return f"; there is no {last} yet, so the run begins anew"
    return f"; what was kept last is in {last}; go on from there with: mapex fit --run {cli.folder.name}"


def _run(cli: MapexCLI, command: str) -> None:
    if cli.start.complete:
        say(f"run folder: {cli.folder}\nthe run {cli.folder.name} is complete, after {cli.start.step} steps")
        return
    with watched_ranks(cli.trainer), enough_memory(cli.trainer, cli.model, cli.datamodule):
        _go(cli, command)


def _go(cli: MapexCLI, command: str) -> None:
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    if not isinstance(model, Pretrain | FineTune | Embed):
        raise MapexError(f"model must be Pretrain or FineTune; found {type(model).__name__}.")
    if cli.config.compile:
        check_compiler(trainer.strategy.root_device.type)
        compile_in_place(model)
    if command == "predict" and data.scene is not None:
        trainer.predict(model, datamodule=data, return_predictions=False)
        return
    if trainer.is_global_zero:
        print(f"run folder: {cli.folder}", flush=True)
    if command == "fit":
        # Says what is missing or does not fit before anything is written.
        data.members("train")
        model.encoder.patchify(data.examples(1))
        _fit(cli)
    elif command == "predict":
        if not isinstance(model, FineTune):
            raise MapexError(
                "mapex predict needs a fine-tuned model; pre-training has no classes to predict, only features of a "
                "scene (--embeddings)."
            )
        trainer.predict(model, datamodule=data, return_predictions=False)
    else:
        _figures(cli, command)
    if trainer.is_global_zero:
        print(f"run folder: {cli.folder}", flush=True)


def _fit(cli: MapexCLI) -> None:
    trainer = cli.trainer
    if cli.resume is not None:
        assert isinstance(cli.model, MapexModule)
        check_resumable(read(cli.resume), str(cli.resume), trainer, cli.model)
    line = check_processes(cli.start, cli.settings(), trainer.world_size)
    with begun(cli.start) if trainer.is_global_zero else nullcontext():
        if trainer.is_global_zero:
            print(f"{type(cli.model).__name__}: {shape_of(cli.model.encoder.config)}; {_size(cli.model)}", flush=True)
            if tiles := batch_line(trainer, cli.datamodule.batch_size):
                print(tiles, flush=True)
            sweep(cli.folder, below=True)
            if cli.start.last is None:
                cli.save_settings()
            else:
                print(f"going on after step {cli.start.step}" + (f", with {line}" if line else ""), flush=True)
        cli.datamodule.load_state_dict(cli.place)
        trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.resume, weights_only=True)
        if trainer.is_global_zero and _time_is_up(cli):
            print(
                f"trainer.max_time is over, after step {trainer.global_step} of {trainer.estimated_stepping_batches}; "
                f"go on with more of it in all: mapex fit --run {cli.folder.name} --trainer.max_time DD:HH:MM:SS",
                flush=True,
            )


def _size(model: MapexModule) -> str:
    """How many parameters there are, and how many of them are trained."""
    sizes = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    count, trained = sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)
    return f"{count:,} parameters" + (f", {trained:,} of them trained" if trained < count else "")


def _time_is_up(cli: MapexCLI) -> bool:
    """Whether a time limit has ended the run before its last step."""
    trainer = cli.trainer
    if cli.config.trainer.max_time is None or any(early.stopped_epoch for early in trainer.early_stopping_callbacks):
        return False
    return trainer.should_stop and trainer.global_step < trainer.estimated_stepping_batches


def _figures(cli: MapexCLI, command: str) -> None:
    if command == "test" and isinstance(cli.model, Pretrain):
        raise MapexError("Pre-training has no test; see its loss on held-out tiles with mapex validate.")
    evaluate = cli.trainer.test if command == "test" else cli.trainer.validate
    evaluated = cli.config.model.init_args.encoder
    figures = evaluate(cli.model, datamodule=cli.datamodule, verbose=False)[0]
    if not cli.trainer.is_global_zero:
        return
    for name, value in figures.items():  # before they are written, which may fail
        print(f"  {name:24s}{value:.4f}", flush=True)
    if not isinstance(cli.model, FineTune) or cli.model.confusion is None:
        write_results(_figures_file(cli.folder, command, Path(evaluated)), {"ckpt": evaluated, **figures})
        return
    classes = by_class(cli.model.task, cli.model.confusion, cli.model.classes)
    print("\n".join(["", *indented(_table(classes)), ""]), flush=True)
    file = _figures_file(cli.folder, command, Path(evaluated))
    if cli.model.task != "multilabel":
        write_confusion(file.with_name(f"{file.stem}-confusion.csv"), cli.model.classes, cli.model.confusion)
    write_results(file, {"ckpt": evaluated, **figures, "classes": classes})


def _table(classes: Mapping[str, Mapping[str, float | int | None]]) -> list[str]:
    """A head, and a line per class."""
    head = ["class", *next(iter(classes.values()))]
    return aligned([head, *([name, *map(_shown, its.values())] for name, its in classes.items())])


def _shown(value: float | int | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _figures_file(folder: Path, command: str, evaluated: Path) -> Path:
    """Where figures go: those of a run are those of its own model, and of any other they stand beside."""
    own = model_of(folder)
    if own is not None and own.resolve() == evaluated.resolve():
        return folder / f"{command}.json"
    file = folder / f"{command}-{evaluated.stem}.json"
    print(f"figures: {file}", flush=True)
    return file
