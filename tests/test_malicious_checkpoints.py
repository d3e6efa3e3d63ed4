"""Checkpoints of an attacker: whatever command is given one, nothing in it is run, and it is refused in a sentence."""

from __future__ import annotations

import _codecs
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from mapex_lightning.__main__ import COMMANDS, main
from mapex_lightning.checkpoint import KEY, load, load_decoder, read, validation
from mapex_lightning.checkpoint.safetensors import CHECKSUM, _checksum
from mapex_lightning.cli.starting import RUN_FOLDER
from mapex_lightning.data.module import TileData
from mapex_lightning.errors import MapexError
from mapex_lightning.info import inform
from mapex_lightning.runs import find_checkpoint
from mapex_lightning.train.checkpoint_io import WholeCheckpointIO
from mapex_lightning.train.embed import Embed
from mapex_lightning.train.finetune import FineTune
from mapex_lightning.train.pretrain import Pretrain
from mapex_lightning.train.prune import Prune
from tests import attacks
from tests.attacks import FORMATS, PLACES, PROOF, Call, Place, Reduce, as_pickle, inside, saved, whole
from tests.builders import SENSORS, config_of
from tests.small import folder as folder_of_tiles
from tests.thinning import diagonal
from tests.workshop import SMALL, TILES

PRETRAIN = ["--config", "pretrain.yaml", "--data.sets", TILES, *SMALL]
FINETUNE = ["--config", "synthetic.yaml", "--data.sets", TILES, *SMALL]
SCENE = ["--data.scene", "s2=scene.tif", "--embeddings", "features.tif"]

WAYS: dict[str, dict[str, list[str]]] = {
    "doctor": {"": ["--ckpt", "FILE", *PRETRAIN]},
    "fit": {
        "resume": ["--ckpt", "FILE", *PRETRAIN],
        "start": ["--ckpt", "FILE", *FINETUNE],
        "continue": ["--run", "planted", *PRETRAIN],
        "encoder": ["--model.encoder", "FILE", *FINETUNE],
        "encoder of a config": ["--config", "encoder.yaml", *FINETUNE[2:]],
    },
    "validate": {"": ["--ckpt", "FILE", *FINETUNE], "of pre-training": ["--ckpt", "FILE", *PRETRAIN]},
    "test": {"": ["--ckpt", "FILE", *FINETUNE]},
    "predict": {"": ["--ckpt", "FILE", *FINETUNE], "embeddings": ["--ckpt", "FILE", *PRETRAIN, *SCENE]},
    "prune": {"": ["--ckpt", "FILE", "--keep", "s1"], "tiles": ["--ckpt", "FILE", "--keep", "s1", *PRETRAIN]},
    "info": {"": ["FILE"], "tiles": ["FILE", *PRETRAIN]},
    "export": {form: ["--ckpt", "FILE", "--to", form] for form in ("safetensors", "torch", "onnx")},
    "pack": {},
    "results": {},
    "tiles": {},
}
"""Every way in which a checkpoint can be given, by command; ``FILE`` is where it stands."""

CASES = [(command, way) for command, ways in WAYS.items() for way in ways]

ENVIRONMENT = {
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "0",
    "JSONARGPARSE_DEFAULT_ENV": "true",
    "PL_CKPT": "evil.ckpt",
    "PL_TRAINER__LOGGER": "evil.Touch",
}
"""What would disarm the safe default of torch, or take settings from the environment."""


def reduces(path: Path) -> None:
    saved(inside(whole(), "callbacks", Reduce()), path)


def names_a_class(path: Path) -> None:
    evil = {"class_path": "evil.Touch", "init_args": {}, "_class_path": "evil.Touch"}
    saved(
        {**whole(), "hyper_parameters": evil, "datamodule_hyper_parameters": evil, "hparams_type": "evil.Touch"}, path
    )


def instantiates(path: Path) -> None:
    keys = {"_instantiator": "evil.touch", "_class_path": "evil.Touch", "encoder": "nano"}
    saved({**whole(), "hyper_parameters": keys, "hparams_name": "kwargs"}, path)


KINDS: dict[str, Callable[[Path], None]] = {
    "reduce": reduces,
    "environment": reduces,
    "url": reduces,
    "class path": names_a_class,
    "instantiator": instantiates,
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with attacks.planted(tmp_path, monkeypatch) as place:
        yield place


def words_of(command: str, way: str, file: str, folder: Path) -> list[str]:
    (folder / "encoder.yaml").write_text(f"model: {{class_path: FineTune, init_args: {{encoder: '{file}'}}}}\n")
    if way == "continue":
        (folder / "runs" / "planted").mkdir(parents=True)
        shutil.copy(folder / "evil.ckpt", folder / "runs" / "planted" / "last.ckpt")
    return [command, *(file if word == "FILE" else word for word in WAYS[command][way])]


def test_every_command_is_attacked() -> None:
    assert set(WAYS) == set(COMMANDS)


@pytest.mark.parametrize(("case", "kind"), diagonal(CASES, KINDS))
def test_no_command_runs_what_a_checkpoint_says(
    case: tuple[str, str], kind: str, place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, way = case
    KINDS[kind](place.path / "evil.ckpt")
    if kind == "environment":
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
    file = f"{place.address}/evil.ckpt" if kind == "url" else "evil.ckpt"
    assert main(words_of(command, way, file, place.path)) == 2
    said = capsys.readouterr().err
    assert said.rpartition("\nmapex: ")[2].removeprefix("mapex: ").count("\n") == 1
    assert "Traceback" not in said
    assert {path.name for path in place.path.iterdir()} <= {"evil.ckpt", "evil.py", "encoder.yaml", "runs"}
    place.nothing_happened()


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_checkpoint_that_lies_in_a_run_folder_is_no_safer(
    command: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        path = place.path / "runs" / "synthetic" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        reduces(path)
    assert main([command, *FINETUNE]) == 2
    assert "is refused: it is not a checkpoint of plain weights" in capsys.readouterr().err
    place.nothing_happened()


LIBRARY: dict[str, Callable[[str], object]] = {
    "read": read,
    "load": load,
    "load_decoder": load_decoder,
    "inform": inform,
    "Pretrain": Pretrain,
    "FineTune": lambda path: FineTune(path, "multiclass", ["a", "b"]),
    "Embed": Embed,
    "Prune": lambda path: Prune(path, ["s1"]),
    "the door of the Trainer": lambda path: WholeCheckpointIO().load_checkpoint(path, weights_only=False),
    "load_from_checkpoint": Pretrain.load_from_checkpoint,
    "load_from_checkpoint of data": TileData.load_from_checkpoint,
}


@pytest.mark.parametrize(("function", "kind"), diagonal(LIBRARY, KINDS))
def test_no_function_runs_what_a_checkpoint_says(
    kind: str, function: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    KINDS[kind](place.path / "evil.ckpt")
    if kind == "environment":
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
    with pytest.raises(MapexError):
        LIBRARY[function](f"{place.address}/evil.ckpt" if kind == "url" else "evil.ckpt")
    place.nothing_happened()


@pytest.mark.parametrize(("part", "format_"), diagonal(PLACES, FORMATS))
def test_a_payload_is_refused_in_every_part_and_every_format(part: str, format_: str, place: Place) -> None:
    FORMATS[format_](inside(whole(), part, Reduce()), place.path / "evil.ckpt")
    with pytest.raises(MapexError, match=r"evil\.ckpt (is refused|cannot be read)"):
        read("evil.ckpt")
    place.nothing_happened()


def test_the_payload_would_have_run(place: Place) -> None:
    as_pickle(inside(whole(), "callbacks", Reduce()), place.path / "evil.ckpt")
    pickle.loads((place.path / "evil.ckpt").read_bytes())
    assert (place.path / PROOF).exists()


@pytest.mark.parametrize("switch", ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None])
def test_torch_itself_would_have_run_it(switch: str | None, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    reduces(place.path / "evil.ckpt")
    if switch is None:
        torch.load("evil.ckpt", weights_only=False)
    else:
        monkeypatch.setenv(switch, "1")
        with pytest.warns(UserWarning, match="forcing weights_only=False"):
            torch.load("evil.ckpt")
    assert (place.path / PROOF).exists()


class Added:
    """What some library has told torch to load."""

    def __setstate__(self, state: object) -> None:
        Path(PROOF).write_text("loaded")


def test_what_libraries_let_torch_load_is_not_loaded(place: Place) -> None:
    payload = Added()
    payload.__dict__["anything"] = 1
    with torch.serialization.safe_globals([Added]):
        saved(inside(whole(), "callbacks", payload), place.path / "evil.ckpt")
        with pytest.raises(MapexError, match="is refused"):
            read("evil.ckpt")
        place.nothing_happened()
        assert Added in torch.serialization.get_safe_globals()
        torch.load("evil.ckpt", weights_only=True)
    assert (place.path / PROOF).exists()


MANY = 10**7


def nested(depth: int) -> tuple[Any, ...]:
    return (nested(depth - 1),) if depth else ()


CALLS: dict[str, Callable[[], object]] = {
    "bytes": lambda: Call(bytearray, MANY),
    "text as bytes": lambda: Call(_codecs.encode, "x", "idna"),
    "a tensor": lambda: Call(torch.Tensor, MANY),
    "a tensor of a type": lambda: Call(torch.IntTensor, MANY),
    "a part of memory": lambda: Call(torch.UntypedStorage, MANY),
    "a tensor that moves": lambda: Call(torch.Tensor, state=(torch.zeros(1), 0, (1,), (1,))),
    "a tensor with an attribute": lambda: Call(
        torch._tensor._rebuild_from_type_v2, torch.add, torch.Tensor, (torch.zeros(1), torch.zeros(1)), {}
    ),
    "a tensor of numbers in holes": lambda: torch.eye(3).to_sparse(),
    "a tensor without bytes": lambda: torch.empty(MANY, device="meta"),
    "a table of a tensor": lambda: Call(OrderedDict, torch.zeros(1).expand(MANY, 2)),
    "a set of a tensor": lambda: Call(set, torch.zeros(1).expand(MANY)),
    "a count": lambda: Counter("aa"),
    "tuples in tuples": lambda: nested(400),
}
"""What torch's restricted unpickler would do, and no file of plain weights asks for."""


@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_called_that_could_take_any_memory(call: str, place: Place) -> None:
    saved(inside(whole(), "callbacks", CALLS[call]()), place.path / "evil.ckpt")
    with pytest.raises(MapexError, match=r"evil\.ckpt is refused: it is not a checkpoint of plain weights \("):
        read("evil.ckpt")


def alone(pickled: bytes, path: Path, **more: bytes) -> None:
    """An archive of torch with this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, member in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little", **more}.items():
            archive.writestr(f"archive/{name}", member)
    attacks.put(buffer.getvalue(), path)


PICKLES = {
    "a name from the stack": b"\x80\x04\x8c\x08builtins\x8c\x09bytearray\x93M\xe8\x03\x85R.",
    "a name that was kept": b"\x80\x02cbuiltins\nbytearray\nq\x000h\x00M\xe8\x03\x85R.",
    "a name that was registered": b"\x80\x02\x82\x01.",
    "an instance": b"(I1000\nibuiltins\nbytearray\n.",
    "an object": b"\x80\x02(cbuiltins\nbytearray\nM\xe8\x03o.",
    "a new object": b"\x80\x02ctorch\nTensor\nM\xe8\x03\x85\x81.",
    "a call of what is no function": b"\x80\x02ctorch\nFloatStorage\nM\xe8\x03\x85R.",
    "a name that is written otherwise": b"\x80\x02ccollections\nOrdered\\x44ict\n)R.",
    "nothing": b"",
    "an empty stack": b"\x80\x02R.",
    "a word beyond its end": b"\x80\x02X\xff\xff\xff\x7fx.",
    "no end": b"\x80\x02}",
}


@pytest.mark.parametrize("pickled", PICKLES)
def test_a_pickle_of_other_words_is_refused(pickled: str, place: Place) -> None:
    alone(PICKLES[pickled], place.path / "evil.ckpt")
    with pytest.raises(MapexError, match=r"evil\.ckpt (is refused|cannot be read)"):
        read("evil.ckpt")


def test_what_is_beside_the_tensors_has_a_size(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(whole(), place.path / "good.ckpt")
    monkeypatch.setattr(validation, "PICKLED", 2_000)
    with pytest.raises(MapexError, match="more than 2,000 bytes beside its tensors"):
        read("good.ckpt")


def test_an_archive_with_two_parts_of_a_name_is_refused(place: Place) -> None:
    saved(whole(), place.path / "good.ckpt")
    with zipfile.ZipFile(place.path / "good.ckpt") as archive:
        parts = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    alone(parts.pop("data.pkl"), place.path / "evil.ckpt", **{**parts, "DATA.PKL": b"."})
    with pytest.raises(MapexError, match="several parts of one name"):
        read("evil.ckpt")


ADDRESSES = ["http://{}/evil.ckpt", "https://{}/evil.ckpt", "file:///{}", "s3://b/a.ckpt", "hdfs://h/a.ckpt"]
ADDRESSES += ["memory://evil.ckpt", "simplecache::http://{}/evil.ckpt", "zip://a.ckpt::http://{}/a.zip"]


@pytest.mark.parametrize(
    ("address", "function"),
    diagonal(ADDRESSES, [read, find_checkpoint, load, Embed, WholeCheckpointIO().load_checkpoint]),
)
def test_no_address_is_followed(function: Callable[[str], object], address: str, place: Place) -> None:
    with pytest.raises(MapexError, match=r"download .* first|found no file|must be a checkpoint"):
        function(address.format(place.address.removeprefix("http://")))
    place.nothing_happened()


@pytest.mark.parametrize(
    "words",
    [["info", "evil.ckpt"], pytest.param(["fit", *PRETRAIN, "--ckpt", "evil.ckpt"], marks=pytest.mark.slow)],
)
def test_a_process_of_its_own_refuses_without_a_traceback(words: list[str], place: Place) -> None:
    reduces(place.path / "evil.ckpt")
    command = [sys.executable, "-m", "mapex_lightning", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **ENVIRONMENT}
    )
    assert done.returncode == 2, done.stderr
    assert "evil.ckpt is refused" in done.stderr
    assert "Traceback" not in done.stderr
    place.nothing_happened()


@pytest.mark.parametrize(
    "words", [["fit", *PRETRAIN], ["validate", *PRETRAIN, "--ckpt", "own.ckpt", "--data.modalities", "[s1, s2, dem]"]]
)
def test_under_slurm_nothing_is_taken_up_that_lies_in_the_run_folder(
    words: list[str], place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning goes on from the newest ``hpc_ckpt_N.ckpt`` that it finds there, whoever wrote it."""
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    folder = place.path / "runs" / "pretrain"
    folder.mkdir(parents=True)
    monkeypatch.setenv(RUN_FOLDER, str(folder))
    reduces(folder / "hpc_ckpt_1.ckpt")
    saved(whole(), place.path / "own.ckpt")
    assert main(words) == 2
    assert "hpc_ckpt_1.ckpt is none of mapex" in capsys.readouterr().err
    place.nothing_happened()


def as_safetensors(path: Path, more: Mapping[str, str] | None = None, **described: object) -> None:
    """A healthy file of weights, with another description or other metadata and the checksum that fits."""
    content = whole()
    text = json.dumps({**content[KEY], **described})
    metadata = {"format": "pt", KEY: text, CHECKSUM: _checksum(content["state_dict"], text), **(more or {})}
    save_file(content["state_dict"], path, metadata)


def header_of(path: Path, header: bytes, size: int | None = None) -> None:
    path.write_bytes((len(header) if size is None else size).to_bytes(8, "little") + header)


TENSOR = b'{"a":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}'

PORTABLE: dict[str, Callable[[Path], object]] = {
    "a pickle": lambda path: as_pickle(inside(whole(), "callbacks", Reduce()), path),
    "an archive of torch": lambda path: saved(inside(whole(), "callbacks", Reduce()), path),
    "nothing": lambda path: path.write_bytes(b""),
    "a header beyond the file": lambda path: header_of(path, b"{}", 2**62),
    "a header without an end": lambda path: header_of(path, b"[" * 100_000),
    "tensors beyond the file": lambda path: header_of(path, TENSOR % (2**60, 2**62)),
    "a tensor of other bytes": lambda path: header_of(path, TENSOR % (3, 4)),
    "no description": lambda path: save_file(whole()["state_dict"], path),
    "a description without an end": lambda path: as_safetensors(path, {KEY: "[" * 100_000}),
    "a description that is a list": lambda path: as_safetensors(path, {KEY: "[1]"}),
    "no checksum": lambda path: as_safetensors(path, {CHECKSUM: ""}),
    "a word for an encoder": lambda path: as_safetensors(path, encoder="nano"),
    "an escape in its lineage": lambda path: as_safetensors(path, lineage=["\x1b]0;owned\x07"]),
    "an encoder of another width": lambda path: as_safetensors(path, encoder=config_of(width=32).describe()),
    "an encoder of another sensor": lambda path: as_safetensors(
        path, encoder=config_of(sensors=SENSORS[:1]).describe()
    ),
}
"""Files that end in ``.safetensors``."""


@pytest.mark.parametrize(
    ("content", "case"), diagonal(PORTABLE, [case for case in CASES if case != ("fit", "continue")])
)
def test_what_calls_itself_safetensors_is_no_safer(
    content: str, case: tuple[str, str], place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    PORTABLE[content](place.path / "evil.safetensors")
    assert main(words_of(*case, "evil.safetensors", place.path)) == 2
    said = capsys.readouterr().err
    assert said.rpartition("\nmapex: ")[2].removeprefix("mapex: ").count("\n") == 1
    assert ("Traceback" in said, "\x1b" in said) == (False, False)
    assert {path.name for path in place.path.iterdir()} <= {"evil.safetensors", "evil.py", "encoder.yaml"}
    place.nothing_happened()


def test_safetensors_under_another_name_are_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    as_safetensors(place.path / "good.safetensors")
    assert main(["info", "good.safetensors"]) == 0
    (place.path / "good.safetensors").rename(place.path / "evil.ckpt")
    capsys.readouterr()
    for words in (["info", "evil.ckpt"], ["prune", "--ckpt", "evil.ckpt", "--keep", "s1"]):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_what_a_description_says_is_text_in_a_model_card(place: Place) -> None:
    markup = "![x](http://evil/x.png) <script>evil()</script> | `evil` **evil**"
    config = config_of().describe()
    config["modalities"][1]["unit"] = markup
    config["modalities"][1]["bands"] = ["a|b", "<b>", "c"]
    as_safetensors(place.path / "evil.safetensors", lineage=[markup], encoder=config, version=markup)
    assert main(["export", "--ckpt", "evil.safetensors", "--to", "safetensors", "--out", "out"]) == 0
    card = (place.path / "out/README.md").read_text()
    for marked in ("![x]", "<script>", "<b>", " `evil`", "**evil", "a|b"):
        assert marked not in card.replace("\\", "\\ ")
    _, front, _ = card.split("---\n", 2)
    assert set(yaml.safe_load(front)) == {"license", "library_name", "tags"}


def altered(change: Callable[[dict[str, Any]], object], path: Path) -> Path:
    content = whole()
    change(content)
    saved(content, path)
    return path


def claims(**fields: object) -> Callable[[dict[str, Any]], object]:
    """An encoder that is described as another than it is."""
    return lambda content: content[KEY]["encoder"].update(fields)


def endless(depth: int = 10) -> list[Any]:
    """A list that is short in a file and has a billion entries: each list in it stands for many times the next."""
    value: list[Any] = [0] * 10
    for _ in range(depth - 1):
        value = [value] * 10
    return value


CLAIMS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a width beyond all memory": claims(width=10**9, hidden=4 * 10**9),
    "ten thousand blocks": claims(experts=[2] * 10**4),
    "a billion experts": claims(experts=[10**9, 0, 4]),
    "a thousand times the experts": claims(experts=[3000, 0, 4]),
    "no heads": claims(heads=0),
    "a negative width": claims(width=-16),
    "text for a number": claims(width="16"),
    "yes for a number": claims(width=True),
    "no experts": lambda content: content[KEY]["encoder"].pop("experts"),
    "a list without an end": claims(allowed=endless()),
    "a word without an end": lambda content: content[KEY].update(lineage=["x" * 10**6]),
    "colours for the terminal": lambda content: content[KEY].update(lineage=["\x1b]0;owned\x07"]),
    "lines of its own": lambda content: content[KEY]["encoder"]["modalities"][0].update(unit="dB\nmapex: all is well"),
    "a mean beyond all numbers": lambda content: content[KEY]["encoder"]["modalities"][0].update(mean=[10**400] * 2),
    "pixels beyond all numbers": lambda content: content[KEY]["encoder"]["modalities"][0].update(gsd=10**400),
    "no description": lambda content: content[KEY].update(encoder=None),
    "a class for a head": lambda content: content[KEY].update(head={"class_path": "evil.Touch"}),
    "a class for a kind": lambda content: content[KEY].update(kind="evil.Touch"),
    "a decoder of no size": lambda content: content[KEY].update(decoder={"width": 10**12, "depth": 1, "heads": 1}),
    "a format that is a list": lambda content: content[KEY].update(format=[1]),
    "format 1 and nothing in it": lambda content: content.update({KEY: {"format": 1}}),
    "weights that are none": lambda content: content.update(state_dict=[1]),
    "a weight that is a word": lambda content: content["state_dict"].update(extra="evil.Touch"),
    "weights that are all the same bytes": lambda content: content["state_dict"].update(
        extra=torch.zeros(1).expand(10**6, 10**6)
    ),
    "states of an optimiser that are all the same bytes": lambda content: content.update(
        optimizer_states=[{"state": {0: {"exp_avg": torch.zeros(1).expand(10**6, 10**6)}}}]
    ),
    "many times the same state of an optimiser": lambda content: content.update(
        optimizer_states=[{"state": {0: [torch.zeros(1000)] * 10_000}}]
    ),
    "weights without bytes": lambda content: content["state_dict"].update(extra=torch.empty(10**9, device="meta")),
    "weights with holes": lambda content: content["state_dict"].update(extra=torch.eye(3).to_sparse()),
    "callbacks that are a word": lambda content: content.update(callbacks="evil.Touch"),
    "a Lightning that never was": lambda content: content.update({"pytorch-lightning_version": "0.1;import os"}),
    "the version of a Lightning that is to be migrated": lambda content: content.update(
        {"pytorch-lightning_version": "1.0.0"}
    ),
}


@pytest.mark.parametrize(("claim", "command"), diagonal(CLAIMS, ["info", "prune", "fit"]))
def test_a_checkpoint_that_lies_about_itself_is_refused_before_anything_is_made_of_it(
    claim: str, command: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    altered(CLAIMS[claim], place.path / "evil.ckpt")
    words = words_of(command, "start" if command == "fit" else "", "evil.ckpt", place.path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert re.search(r"evil\.ckpt|The checkpoint|The description of the encoder|heads=0", said)
    assert (said.count("\n"), "\x1b" in said) == (1, False)
    place.nothing_happened()


SURPLUS: dict[str, dict[str, object]] = {
    "head": {"task": "multiclass", "classes": ["a", "b"], "pool": "mean", "extra": torch.zeros(1)},
    "decoder": {"width": 16, "depth": 1, "heads": 2, "extra\x1b": 1},
}


@pytest.mark.parametrize("part", SURPLUS)
def test_a_surplus_entry_of_a_description_is_refused(
    part: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    altered(lambda content: content[KEY].update({part: SURPLUS[part]}), place.path / "evil.ckpt")
    assert main(["info", "evil.ckpt", "--json"]) == 2
    said = capsys.readouterr().err
    assert (said.count("\n"), "\x1b" in said) == (1, False)
    assert f"evil.ckpt does not fit its own description: {part} has an entry" in said
    with pytest.raises(MapexError, match=f"{part} has an entry"):
        load_decoder("evil.ckpt")


@pytest.mark.parametrize("claim", [{"width": 2**19}, {"hidden": 2**19}, {"router_dim": 2**19}, {"low_rank": 2**19}])
def test_a_model_gets_memory_only_when_all_its_weights_are_there(claim: dict[str, int], place: Place) -> None:
    altered(claims(**claim), place.path / "evil.ckpt")
    for function in (load, Embed):
        with pytest.raises(MapexError, match="weights are missing, surplus or of another shape"):
            function("evil.ckpt")


def test_a_healthy_checkpoint_of_the_same_making_is_read(place: Place) -> None:
    saved(whole(), place.path / "good.ckpt")
    assert load("good.ckpt").config == config_of()
    assert main(["info", "good.ckpt"]) == 0


def test_what_a_resumed_checkpoint_wants_removed_is_removed_only_beside_it(tmp_path: Path) -> None:
    """The names of files to remove stand in its callbacks; Lightning would follow ``..`` and remove whole folders."""
    door, run = WholeCheckpointIO(), tmp_path / "runs" / "mine"
    precious, own = tmp_path / "precious", run / "step-1.ckpt"
    door.save_checkpoint(whole(), own)
    folder_of_tiles(precious, ["train"])
    (tmp_path / "other.ckpt").touch()
    (run / "link.ckpt").symlink_to(tmp_path / "other.ckpt")
    for path in (run / ".." / ".." / "precious", tmp_path / "other.ckpt", run / "link.ckpt", precious / "tiles.csv"):
        with suppress(MapexError):
            door.remove_checkpoint(path)
        assert path.exists()
    door.remove_checkpoint(own)
    assert not own.exists()
    shutil.rmtree(precious)
