"""Bad input gets a sentence with a way out, exit code 2, and nothing half written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import read, save
from mapex_lightning.cli.building import build
from mapex_lightning.cli.words import config_file, packaged_configs
from mapex_lightning.errors import STOPPED, MapexError
from mapex_lightning.modality import MODALITIES, modalities
from mapex_lightning.model.config import preset
from mapex_lightning.model.encoder import Encoder
from tests.workshop import SMALL, TILES, finetune, pretrain

FIT = ["fit", "--config", "pretrain.yaml", "--data.sets", TILES, *SMALL]
TORCHGEO = (
    "[{class_path: TorchGeo, init_args: {dataset: EuroSAT, sensors: {s1: {bands: [VV], unit: dB, gsd: 10, "
    "decibls: true}}}}]"
)

BAD = {
    "a time limit of another form": ([*FIT, "--trainer.max_time", "5"], ["'5'", "DD:HH:MM:SS"]),
    "no config": (["fit"], ["needs a config", "pretrain.yaml"]),
    "an unknown config": (
        ["fit", "--config", "pretrian.yaml"],
        ["pretrian.yaml", "Did you mean 'pretrain.yaml'", "eurosat"],
    ),
    "an unknown key": ([*FIT, "--trainer.max_epoch", "3"], ["max_epoch"]),
    "a misspelt key": ([*FIT, "--modle.encoder", "nano"], ["modle.encoder"]),
    "a value of another type": ([*FIT, "--trainer.max_epochs", "many"], ["trainer.max_epochs", "int"]),
    "an American key": ([*FIT, "--model.optimizer.lr", "1e-3"], ["Did you mean --model.optimiser.lr?"]),
    "a key without dashes": ([*FIT, "trainer.max_epochs", "1"], ["Did you mean --trainer.max_epochs?"]),
    "a key before the config": (
        ["fit", "--model.encoder", "nano", *FIT[1:]],
        ["--model.encoder stands before the config", "Give --config first"],
    ),
    "a nested key before the config": (
        ["fit", "--model.optimiser.lr=1", *FIT[1:]],
        ["--model.optimiser.lr stands before the config"],
    ),
    "an unknown sensor": ([*FIT, "--data.modalities", "[s1, s3]"], ["'s3'", "Known: dem, landsat, rgb, s1, s2"]),
    "a sensor of one's own without statistics": (
        [*FIT, "--data.modalities", "[{name: x, bands: [a], gsd: 10, unit: dB}]"],
        ["mean"],
    ),
    "a config without a model": (["doctor", "--config", "data.yaml"], ["has no model", "--config pretrain.yaml"]),
    "an unknown model": (["fit", "--config", "kind.yaml"], ["'Pretrian'", "Did you mean 'Pretrain'"]),
    "an unknown preset": ([*FIT, "--model.encoder", "nanoo"], ["nanoo", "nano, tiny, small, base, large"]),
    "an unknown data set": ([*FIT, "--data.sets", "[{class_path: Eurosat}]"], ["'Eurosat'", "Did you mean 'EuroSAT'"]),
    "a setting that a data set does not have": (
        [*FIT, "--data.sets", "[{class_path: Synthetic, init_args: {tran: 3}}]"],
        ["data.sets: There is no setting 'tran' of Synthetic", "Did you mean 'train'"],
    ),
    "a misspelt setting of torchgeo's sensors": (
        [*FIT, "--data.sets", TORCHGEO],
        ["data.sets: sensors: There is no setting 'decibls' of Channels", "Did you mean 'decibels'", "nodata"],
    ),
    "a misspelt setting of a sensor of one's own": (
        [*FIT, "--config", "sensor.yaml"],
        ["data.modalities: There is no setting 'gds' of Modality", "Did you mean 'gsd'"],
    ),
    "a misspelt setting of how a scene is read": (
        [*FIT, "--data.reading", "{s1: {ofset: 1}}"],
        ["data.reading: There is no setting 'ofset' of Reading", "Did you mean 'offset'"],
    ),
    "a data set that is not there": (
        [*FIT, "--data.sets", "[{class_path: EuroSAT}]", "--data.modalities", "[s2]"],
        ["No EuroSAT tiles", "unpack"],
    ),
    "a sensor that no data set has": ([*FIT, "--data.modalities", "[s1, landsat]"], ["landsat", "leave it out"]),
    "an unknown router": ([*FIT, "--model.router", "magic"], ["magic", "conditioned"]),
    "a size that is no multiple of the patch": ([*FIT, "--data.size", "12"], ["multiple of the patch of 8", "12 x 12"]),
    "nothing trained to test": (
        ["test", "--config", "synthetic.yaml"],
        ["no trained model", "--ckpt PATH"],
    ),
    "no checkpoint to start from": (
        ["fit", "--config", "synthetic.yaml"],
        ["pruned.ckpt", "--ckpt", "mapex prune writes pruned.ckpt"],
    ),
    "a missing checkpoint": (["prune", "--ckpt", "gone.ckpt", "--keep", "s1"], ["gone.ckpt", "Available"]),
    "prune without keep": (["prune", "--ckpt", "gone.ckpt"], ["--keep", "--help"]),
    "an unknown option of prune": (["prune", "--ckpt", "a.ckpt", "--keep", "s1", "--kep", "x"], ["--kep"]),
    "a checkpoint that is none": (["prune", "--ckpt", "notes.txt", "--keep", "s1"], ["notes.txt", "cannot be read"]),
    "a checkpoint of another program": (["prune", "--ckpt", "alien.ckpt", "--keep", "s1"], ["no checkpoint of mapex"]),
    "a map without a scene": (["predict", "--config", "segment.yaml", "--out", "m.tif"], ["--out", "--data.scene"]),
    "a scene without a map": (["predict", "--config", "segment.yaml", "--data.scene", "a.tif"], ["--out map.tif"]),
    "a scene without files": (["predict", "--config", "segment.yaml", "--data.scene"], ["s2=A.tif"]),
    "a scene of an unset variable": (["predict", "--config", "segment.yaml", "--data.scene", ""], ["s2=A.tif"]),
    "devices that are no number": ([*FIT, "--trainer.devices", "gpu"], ["0,1", "found gpu", "trainer.accelerator"]),
    "an unknown accelerator": ([*FIT, "--trainer.accelerator", "gpux"], ["invalid accelerator", "--help-all"]),
    "an unknown strategy": ([*FIT, "--trainer.strategy", "dpp"], ["invalid strategy", "--help-all"]),
    "a scene whose files are half named": (
        ["predict", "--config", "segment.yaml", "--data.scene", "s1=a.tif", "b.tif"],
        ["a sensor before each", "s2=A.tif"],
    ),
    "a map of a training run": ([*FIT, "--out", "map.tif"], ["--out"]),
    "a config that is no mapping": (["fit", "--config", "notes.txt"], ["Unexpected config: just words"]),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a text file, configs with a slip each and a checkpoint of another program."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sensor.yaml").write_text(
        "data: {modalities: [{name: x, bands: [a], gds: 10, unit: dB, mean: [0], std: [1]}]}"
    )
    (tmp_path / "notes.txt").write_text("just words\n")
    (tmp_path / "data.yaml").write_text("data: {modalities: [s1]}\n")
    (tmp_path / "kind.yaml").write_text("model: {class_path: Pretrian}\n")
    torch.save({"state_dict": {}}, tmp_path / "alien.ckpt")
    return tmp_path


@pytest.mark.parametrize(("words", "says"), BAD.values(), ids=BAD)
def test_bad_input_gets_a_sentence_and_leaves_nothing_behind(
    words: list[str], says: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name for path in folder.rglob("*")}
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("mapex: ")
    assert "Traceback" not in err
    for piece in says:
        assert piece in err
    assert {path.name for path in folder.rglob("*")} == before


EVIL = {
    "model": "model: {class_path: os.system, init_args: {command: touch proof}}",
    "data": "model: {class_path: Pretrain}\ndata: {sets: [{class_path: subprocess.Popen, init_args: {args: touch}}]}",
    "callback": "model: {class_path: Pretrain}\ntrainer: {callbacks: [{class_path: evil.Touch}]}",
    "module": "model: {class_path: evil.Model}",
}


@pytest.mark.parametrize("text", EVIL.values(), ids=EVIL)
def test_a_config_imports_nothing_outside_the_allowed_roots(
    text: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(folder))
    (folder / "evil.py").write_text("open('proof', 'w').close()\n")
    (folder / "evil.yaml").write_text(text)
    words = ["fit", "--config", "evil.yaml"]
    assert main(words if "sets" in text else [*words, *FIT[3:]]) == 2
    assert "not allowed" in capsys.readouterr().err
    assert not (folder / "proof").exists()


def test_what_is_stopped_before_its_first_checkpoint_says_that_it_begins_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(_: object) -> None:
        raise SystemExit

    monkeypatch.setattr("mapex_lightning.cli._fit", stopped)
    assert main([*FIT, "--run", "early"]) == STOPPED
    assert "stopped; there is no runs/early/last.ckpt yet, so the run begins anew" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused_by_every_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cut.ckpt").write_bytes((folder / "alien.ckpt").read_bytes()[:-200])
    for words in (["prune", "--keep", "s1"], ["test", "--config", "synthetic.yaml"], FIT):
        assert main([*words, "--ckpt", "cut.ckpt"]) == 2
        assert "cut.ckpt cannot be read" in capsys.readouterr().err


def test_a_pre_training_checkpoint_is_not_tested(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = pretrain()
    assert main(["test", "--config", "synthetic.yaml", "--ckpt", str(last)]) == 2
    assert "needs a checkpoint of finetune" in capsys.readouterr().err
    assert main(["prune", "--ckpt", str(last), "--keep", "s3"]) == 2
    assert "Known: dem, rgb, s1, s2" in capsys.readouterr().err
    assert main(["prune", "--ckpt", str(last), "--keep", "s1", "--out", str(last)]) == 2
    assert read(last)["global_step"] == 3
    assert not (last.parent / "pruned.ckpt").exists()


def test_later_configs_win(folder: Path) -> None:
    (folder / "mine.yaml").write_text("model: {init_args: {visible: 0.5}}\ntrainer: {max_epochs: 7}\n")
    built = build("fit", [*FIT[1:], "--config", "mine.yaml"])
    assert built.config.model.init_args.visible == 0.5
    assert built.trainer.max_epochs == 7


def test_a_config_of_the_working_folder_comes_before_the_packages(folder: Path) -> None:
    (folder / "configs").mkdir()
    (folder / "configs" / "pretrain.yaml").write_text("model: {class_path: Pretrain}\n")
    assert config_file("pretrain.yaml") == Path("configs/pretrain.yaml")
    assert config_file("eurosat.yaml") == packaged_configs() / "eurosat.yaml"


def test_settings_can_be_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*FIT, "--print_config"])
    assert stop.value.code == 0
    assert "class_path: mapex_lightning.train.pretrain.Pretrain" in capsys.readouterr().out
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("words", "scene"),
    [
        (["s2=A.tif", "s1=VV.tif", "s1=VH.tif"], {"s2": ["A.tif"], "s1": ["VV.tif", "VH.tif"]}),
        (["B04.tif", "x/y=z/B08.tif"], ["B04.tif", "x/y=z/B08.tif"]),
        (["{s2: [A.tif]}"], {"s2": ["A.tif"]}),
    ],
)
def test_the_files_of_a_scene_may_stand_as_words(
    words: list[str], scene: object, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in (["--data.scene", *words], [f"--data.scene={words[0]}", *words[1:]]):
        with pytest.raises(SystemExit):
            main(["predict", "--config", "segment.yaml", *given, "--out", "map.tif", "--print_config"])
        settings = yaml.safe_load(capsys.readouterr().out)
        assert (settings["data"]["scene"], settings["out"]) == (scene, "map.tif")


def test_a_trusted_package_may_be_named(folder: Path) -> None:
    with pytest.raises(MapexError, match="--trust needs the name of a package"):
        build("fit", [*FIT[1:], "--trust"])


SHARES_FIRST = """
import sklearn.linear_model
from mapex_lightning.cli.building import build
trainer = build("fit", ["--config", "pretrain.yaml", "--trainer.limit_train_batches", "1"]).config.trainer
print(repr(trainer.limit_train_batches), trainer.limit_val_batches)
"""


def test_a_limit_of_one_batch_is_one_batch_whatever_was_imported_before(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SHARES_FIRST], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split("\n")[-2] == "1 None", done.stderr


def test_a_run_says_how_large_its_model_is_and_where_its_encoder_comes_from(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = pretrain("--data.modalities", "[s1, s2]")
    first = capsys.readouterr().out
    assert re.search(r"^Pretrain: 128 wide.*; 3,4\d\d,\d{3} parameters$", first, re.MULTILINE)
    finetune("--model.encoder", last.name, "--model.train", "linear")
    second = capsys.readouterr().out
    assert f"starting from the encoder of {last}\n" in second
    assert re.search(r"^FineTune: .* parameters, 1,\d{3} of them trained$", second, re.MULTILINE)


def test_a_run_from_a_checkpoint_says_where_the_data_are_far_from_its_statistics(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(Encoder(preset("nano", modalities(["s1", "dem"]))), folder / "other.ckpt")
    blocks = [{**MODALITIES[name].describe(), "mean": mean} for name, mean in (("s1", [-1, 20]), ("dem", [400]))]
    assert "look:" not in capsys.readouterr().out
    finetune("--model.encoder", "other.ckpt", "--data.modalities", json.dumps(blocks))
    looks = [line for line in capsys.readouterr().out.splitlines() if line.startswith("look:")]
    said = "s1 VH by -19, and the data say 20 (6.7 deviations): another unit, offset or place?"
    assert looks == [f"look: the encoder normalises {said}"]


def test_a_control_is_evaluated_with_the_weights_that_it_has_learned(folder: Path) -> None:
    last, pretrained = finetune("--model.encoder", "nano"), ["--model.pretrained", "false"]
    for words in ([], pretrained):
        evaluate = ["validate", "--config", "synthetic.yaml", "--ckpt", str(last), "--data.sets", TILES, *SMALL]
        assert main([*evaluate, "--run", f"with-{len(words)}", *words]) == 0
    one, other = (json.loads(Path(f"runs/with-{n}/validate-last.json").read_text()) for n in (0, 2))
    assert one == other


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--trainer.val_check_interval", "1000"),
            "A setting of the Trainer cannot be used: `val_check_interval` (1000)",
        ),
        (("--trainer.max_epochs", "-1"), "a run needs one: set trainer.max_epochs or trainer.max_steps"),
    ],
)
def test_a_setting_that_does_not_fit_the_number_of_batches_is_told_in_a_sentence(
    words: tuple[str, str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, *words]) == 2
    assert said in capsys.readouterr().err


def test_a_run_that_ends_before_its_first_validation_says_that_it_is_not_sealed_and_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(UserWarning, match="not sealed"):
        last = pretrain("--trainer.max_steps", "1")
    assert last.is_file()
    assert not last.with_name("best.ckpt").exists()
    assert "monitor" not in capsys.readouterr().err


def test_a_run_whose_time_is_over_says_how_to_go_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain("--trainer.max_time", "00:00:00:00", run="brief")
    assert "trainer.max_time is over, after step 0 of 3; go on" in (said := capsys.readouterr().out)
    assert "mapex fit --run brief --trainer.max_time" in said
