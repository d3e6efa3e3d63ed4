"""Configs of an attacker: nothing is imported or run that is not on the list, whatever they name, nothing fetched."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from lightning.pytorch import callbacks, loggers, profilers, strategies

from mapex_lightning.__main__ import COMMANDS, main
from mapex_lightning.checkpoint import save
from mapex_lightning.cli.building import build
from mapex_lightning.cli.trust import OURS, THEIRS, paths_of
from mapex_lightning.errors import MapexError
from mapex_lightning.plain_yaml import check
from tests import attacks
from tests.attacks import PROOF, Place
from tests.builders import config_of, encoder_of
from tests.thinning import diagonal, first_of_each
from tests.workshop import SMALL, TILES

BASE = ["--config", "pretrain.yaml", "--data.sets", TILES, *SMALL]


def callback(inside: str) -> str:
    return f"trainer: {{callbacks: [{inside}]}}"


LAUGHS = "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

KINDS: dict[str, dict[str, str]] = {
    "class of Python": {
        "model": "model: {class_path: os.system, init_args: {command: touch proof}}",
        "data": "data: {sets: [{class_path: subprocess.Popen, init_args: {args: touch proof}}]}",
        "callback": callback("{class_path: builtins.exec, init_args: {source: 1}}"),
        "through Lightning": callback("{class_path: lightning.pytorch.callbacks.model_checkpoint.os.system}"),
        "through mapex": callback("{class_path: mapex_lightning.files.os.system}"),
        "function of mapex": callback("{class_path: mapex_lightning.files.write_text}"),
    },
    "planted module": {
        "model": "model: {class_path: evil.Touch}",
        "data": "data: {sets: [{class_path: evil.Touch}]}",
        "callback": callback("{class_path: evil.Touch}"),
        "accelerator": "trainer: {accelerator: {class_path: evil.Touch}}",
        "part of a model": "model: {init_args: {auxiliary: {class_path: evil.Touch}}}",
        "sensor": "data: {modalities: [{class_path: evil.Touch}]}",
    },
    "nested": {
        "callback": callback("{class_path: EarlyStopping, init_args: {monitor: {class_path: evil.Touch}}}"),
        "logger": "trainer: {logger: {class_path: WandbLogger, init_args: {experiment: {class_path: evil.Touch}}}}",
        "strategy": "trainer: {strategy: {class_path: DDPStrategy, init_args: {accelerator: {class_path: "
        "evil.Touch}}}}",
        "profiler": "trainer: {profiler: {class_path: PyTorchProfiler, init_args: {dirpath: {class_path: "
        "evil.Touch}}}}",
        "plugin": "trainer: {plugins: [{class_path: lightning.pytorch.plugins.io.TorchCheckpointIO}]}",
        "sensor": "data: {sets: [{class_path: TorchGeo, init_args: {dataset: EuroSAT, sensors: {s2: {class_path: "
        "evil.Touch}}}}]}",
    },
    "function": {
        "lambda": callback("{class_path: LambdaCallback, init_args: {setup: evil.touch}}"),
        "average": callback("{class_path: StochasticWeightAveraging, init_args: {swa_lrs: 0.1, avg_fn: evil.touch}}"),
        "hook": "trainer: {strategy: {class_path: DDPStrategy, init_args: {ddp_comm_hook: evil.touch}}}",
        "hook of Python": "trainer: {strategy: {class_path: DDPStrategy, init_args: {ddp_comm_hook: os.system}}}",
        "wrapping": "trainer: {strategy: {class_path: FSDPStrategy, init_args: {auto_wrap_policy: evil.touch}}}",
    },
    "tag": {
        "call": "model: !!python/object/apply:os.system ['touch proof']",
        "name": "seed_everything: !!python/name:evil.touch",
        "module": "run: !!python/module:evil",
        "new": "run: !!python/object/new:evil.Touch []",
        "no truth": "run: !!bool foo",
        "no time": "run: !!timestamp x",
        "no day": "run: !!timestamp 2001-99-99",
        "no whole number": "run: !!int ''",
        "no number": "run: !!float x",
        "no bytes": "run: !!binary é",
    },
    "endless": {
        "a billion laughs": f"a: &a [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n{LAUGHS}run: *i",
        "a list in itself": "data: &a {sets: [*a]}",
        "too deep": f"run: {'[' * 60}{']' * 60}",
        "far too deep": f"run: {'[' * 100_000}",
        "a word many times": f"a: &a {'x' * 100_000}\nrun: [{','.join(['*a'] * 100)}]",
        "a list of words many times": f"a: &a [{'x' * 100_000}]\nrun: [{','.join(['*a'] * 100)}]",
    },
    "environment": {
        "trust": f"trust: evil\n{callback('{class_path: evil.Touch}')}",
        "omegaconf": "run: ${oc.env:HOME}",
        "shell": "run: ${HOME}",
        "omegaconf in a path": "data: {sets: ['${oc.env:HOME}']}",
        "another folder": "run: ../../elsewhere",
    },
    "address": {
        "trainer": "trainer: ADDRESS/evil.yaml",
        "data": "data: ADDRESS/evil.yaml",
        "through a library": "trainer: simplecache::ADDRESS/evil.yaml",
        "memory": "data: memory://evil.yaml",
        "config": "config: ADDRESS/evil.yaml",
        "encoder": "model: {init_args: {encoder: 'ADDRESS/evil.ckpt'}}",
        "checkpoint": "ckpt: ADDRESS/evil.ckpt",
        "logger": "trainer: {logger: {class_path: CSVLogger, init_args: {save_dir: 's3://bucket/x'}}}",
        "root": "data: {root: 'ADDRESS/'}",
    },
}

MISTAKEN = {
    "a setting of a logger": "trainer: {logger: {class_path: CSVLogger, init_args: {save_dir: x}, "
    "dict_kwargs: {a: 1}}}",
    "a setting of TensorBoard": "trainer: {logger: {class_path: TensorBoardLogger, init_args: {save_dir: x}, "
    "dict_kwargs: {a: 1}}}",
    "a setting of a profiler": "trainer: {profiler: {class_path: SimpleProfiler, dict_kwargs: {a: 1}}}",
    "a setting of a strategy": "trainer: {strategy: {class_path: DDPStrategy, dict_kwargs: {a: 1}}}",
    "a setting of a model": "model: {class_path: Pretrain, dict_kwargs: {a: 1}}",
    "no profiler": "trainer: {profiler: evil}",
    "no key to sort by": "trainer: {profiler: {class_path: PyTorchProfiler, init_args: {sort_by_key: evil}}}",
    "no mode": callback("{class_path: EarlyStopping, init_args: {monitor: val/loss, mode: evil}}"),
    "no number of checkpoints": callback("{class_path: ModelCheckpoint, init_args: {save_top_k: -7}}"),
    "no rate": callback("{class_path: StochasticWeightAveraging, init_args: {swa_lrs: -1.0}}"),
}
"""Classes of the list with settings that they do not take."""

CASES = [(kind, name) for kind, texts in KINDS.items() for name in texts]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with attacks.planted(tmp_path, monkeypatch) as place:
        (tmp_path / "evil.yaml").write_text("max_epochs: 1\n")
        yield place


def refused(words: list[str], text: str, place: Place, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said when a config is refused, as it must be."""
    (place.path / "stranger.yaml").write_text(text.replace("ADDRESS", place.address))
    before = {path.name for path in place.path.rglob("*")}
    assert main([*words, "--config", "stranger.yaml"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mapex: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said
    assert {path.name for path in place.path.rglob("*")} == before
    place.nothing_happened()
    return said


def test_there_are_eight_kinds() -> None:
    assert len(KINDS) == 8


@pytest.mark.parametrize(("kind", "name"), first_of_each(CASES))
def test_nothing_that_a_config_says_is_imported_or_run(
    kind: str, name: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["fit", *BASE], KINDS[kind][name], place, capsys)


@pytest.mark.parametrize("mistake", MISTAKEN)
def test_settings_that_a_class_does_not_take_get_a_sentence(
    mistake: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["fit", *BASE], MISTAKEN[mistake], place, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["EarlyStopping", "ModelCheckpoint"])
def test_a_figure_that_is_not_there_ends_a_run_in_a_sentence(
    kind: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (place.path / "mine.yaml").write_text(callback(f"{{class_path: {kind}, init_args: {{monitor: nope}}}}"))
    assert main(["fit", *BASE, "--config", "mine.yaml"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "nope" in said


WORDS = {
    "doctor": BASE,
    "export": [],
    "fit": BASE,
    "info": ["model.ckpt", *BASE],
    "pack": [*BASE, "--out", "packed"],
    "predict": BASE,
    "prune": ["--ckpt", "model.ckpt", "--keep", "s1", *BASE],
    "results": [],
    "test": BASE,
    "tiles": [],
    "validate": BASE,
}
"""How each command is given a config; none where it takes none."""


def test_every_command_is_attacked() -> None:
    assert set(WORDS) == set(COMMANDS)


@pytest.mark.parametrize(("command", "kind"), diagonal((command for command, words in WORDS.items() if words), KINDS))
def test_no_command_runs_what_a_config_says(
    command: str, kind: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    save(encoder_of(config_of()), place.path / "model.ckpt")
    refused([command, *WORDS[command]], next(iter(KINDS[kind].values())), place, capsys)


@pytest.mark.parametrize("text", [*KINDS["tag"].values(), *KINDS["endless"].values()])
def test_a_file_of_sensors_is_read_as_carefully(text: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.path / "sensors.yaml").write_text(text)
    assert main(["tiles", "s1=a.tif", "--sensors", "sensors.yaml", "--out", "o", "--size", "8"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    place.nothing_happened()


def test_the_module_would_have_run(place: Place) -> None:
    import_module("evil").touch()
    assert (place.path / PROOF).read_text() == "called"


def test_trust_opens_one_package_for_one_command(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    text, words = callback("{class_path: evil.Touch}"), BASE
    said = refused(["fit", *words], text, place, capsys)
    assert "--trust evil" in said
    build("fit", [*words, "--config", "stranger.yaml", "--trust", "evil"])
    assert (place.path / PROOF).read_text() == "made"
    (place.path / PROOF).unlink()
    del sys.modules["evil"]
    refused(["fit", "--trust", "other", *words], text, place, capsys)
    refused(["fit", "--trust=evil", *words], KINDS["class of Python"]["model"], place, capsys)


@pytest.mark.parametrize("package", ["", "jsonargparse", "jsonargparse.typing", "a b", "../evil", "*"])
def test_what_is_no_package_is_not_trusted(package: str, place: Place) -> None:
    with pytest.raises(MapexError, match="--trust needs the name of a package"):
        build("fit", [*BASE, "--trust", package])


def test_the_sentence_of_a_refusal_names_a_package_to_trust_and_none_of_python(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    lightning = refused(["fit", *BASE], KINDS["nested"]["logger"], place, capsys)
    assert "add --trust lightning.pytorch.loggers." in lightning
    assert "--trust" not in refused(["fit", *BASE], KINDS["class of Python"]["model"], place, capsys)


@pytest.mark.parametrize("kind", [*OURS, *THEIRS], ids=lambda kind: kind.__name__)
def test_what_a_config_may_name_is_a_class_and_no_function(kind: type) -> None:
    assert inspect.isclass(kind)
    for path in paths_of(kind):
        module, _, name = path.rpartition(".")
        assert getattr(import_module(module), name) is kind


LEFT_OUT = {
    *("BackboneFinetuning", "BaseFinetuning", "BasePredictionWriter", "BatchSizeFinder", "Callback", "Checkpoint"),
    *(
        "GradientAccumulationScheduler",
        "LambdaCallback",
        "LearningRateFinder",
        "ModelPruning",
        "OnExceptionCheckpoint",
        "ProgressBar",
        "SpikeDetection",
        "Timer",
    ),
    *("ThroughputMonitor", "WeightAveraging"),
    *("CometLogger", "LitLogger", "Logger", "MLFlowLogger", "NeptuneLogger", "WandbLogger"),
    *("Profiler", "XLAProfiler"),
    *("DeepSpeedStrategy", "ParallelStrategy", "SingleDeviceXLAStrategy", "Strategy", "XLAFSDPStrategy", "XLAStrategy"),
}
"""What Lightning offers and a config may not name without ``--trust``: see `mapex_lightning.cli.trust.THEIRS`."""


def test_every_class_of_lightning_has_been_decided_about() -> None:
    offered = {name for module in (callbacks, loggers, profilers, strategies) for name in module.__all__}
    assert offered - {kind.__name__ for kind in THEIRS} - LEFT_OUT == set()
    assert not {kind.__name__ for kind in THEIRS} & LEFT_OUT


def test_settings_of_lightning_that_harm_nobody_are_taken(place: Place) -> None:
    (place.path / "mine.yaml").write_text(
        "trainer:\n  callbacks:\n    - {class_path: EarlyStopping, init_args: {monitor: val/loss}}\n"
        "    - {class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {every_n_epochs: 2}}\n"
        "  logger: [{class_path: CSVLogger, init_args: {save_dir: logs}}]\n"
        "  strategy: {class_path: lightning.pytorch.strategies.DDPStrategy}\n"
    )
    built = build("fit", [*BASE, "--config", "mine.yaml", "--trainer.devices", "1"])
    kinds = {type(one).__name__ for one in vars(built.trainer)["callbacks"]}
    assert {"EarlyStopping", "ModelCheckpoint"} <= kinds


def test_no_setting_comes_from_the_environment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"JSONARGPARSE_DEFAULT_ENV": "true", "PL_TRAINER__MAX_EPOCHS": "7", "PL_RUN": "x"}.items():
        monkeypatch.setenv(name, value)
    built = build("fit", BASE)
    assert (built.config.trainer.max_epochs, built.config.run) == (1, None)


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_run_does_not_leave_the_folder_of_runs(
    command: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    save(encoder_of(config_of()), place.path / "model.ckpt")
    said = refused([command, *BASE, "--ckpt", "model.ckpt"], "run: ../elsewhere", place, capsys)
    assert "A run's name is" in said


@pytest.mark.parametrize(
    "text", ["a: [1, &x 2, *x]", "a: &a {b: 1}\nc: {<<: *a}", "just words", "a: 'unclosed", "*nobody"]
)
def test_plain_yaml_passes_the_check_and_what_is_none_is_left_to_its_reader(text: str) -> None:
    check(text)


def test_a_long_config_is_no_endless_one() -> None:
    check("\n".join(f"band{number}: [1, 2, 3]" for number in range(2_000)))
    with pytest.raises(MapexError, match="at most 20,000 entries"):
        check("\n".join(f"band{number}: [1, 2, 3]" for number in range(5_000)))


@pytest.mark.parametrize("name", ["a word many times", "a list of words many times"])
def test_words_count_by_their_letters_wherever_they_stand_again(name: str) -> None:
    check(f"a: {'x' * 900_000}")
    with pytest.raises(MapexError, match="1,000,000 letters in all, aliases written out"):
        check(KINDS["endless"][name])
