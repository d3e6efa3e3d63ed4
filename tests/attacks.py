"""What an attacker writes: checkpoints that would run code, and a way to see whether they have."""

from __future__ import annotations

import http.server
import io
import pickle
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from mapex_lightning.checkpoint import KEY
from mapex_lightning.checkpoint.checksum import END, END_SIZE, ChecksumWriter
from tests.builders import checkpoint_of, config_of, encoder_of

PROOF = "proof"
"""The file that a payload writes into the current folder when it is run."""

EVIL = """
from pathlib import Path
Path("proof").write_text("imported")
from lightning.pytorch import Callback
class Touch(Callback):
    def __init__(self, *_, **__):
        Path("proof").write_text("made")
def touch(*_, **__):
    Path("proof").write_text("called")
"""
"""The module ``evil``: being imported is enough."""


class Reduce:
    """Writes the proof when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (Path(PROOF), "unpickled")


class Call:
    """A function of torch's list with arguments of the attacker, and maybe a state for what it gives."""

    def __init__(self, called: Callable[..., Any], *arguments: object, state: object = None) -> None:
        self.called, self.arguments, self.state = called, arguments, state

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.called, self.arguments) if self.state is None else (self.called, self.arguments, self.state)


def whole() -> dict[str, Any]:
    """A healthy checkpoint of a run, as plain types and tensors."""
    run = {"epoch": 0, "global_step": 1, "pytorch-lightning_version": "2.6.0", "loops": {}, "callbacks": {}}
    return {**checkpoint_of(encoder_of(config_of())), **run, "optimizer_states": [], "lr_schedulers": []}


def put(content: bytes, path: Path) -> None:
    """Writes a file as an attacker would, with the right checksum where it is an archive. Every payload comes here."""
    if content[-END_SIZE:].startswith(END):
        target = io.BytesIO()
        writer = ChecksumWriter(target)
        writer.write(content)
        writer.finish()
        content = target.getvalue()
    path.write_bytes(content)


def saved(content: object, path: Path, **how: Any) -> None:
    """A file as torch writes it."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    put(buffer.getvalue(), path)


def inside(content: dict[str, Any], place: str, payload: object) -> dict[str, Any]:
    """A checkpoint with a payload in one of its parts; an empty place is beside them."""
    part = content.get(place)
    if not place:
        return {**content, "extra": payload}
    if isinstance(part, dict):
        return {**content, place: {**part, "extra": payload}}
    return {**content, place: [payload]}


PLACES = ("", "state_dict", "callbacks", "optimizer_states", "lr_schedulers", "loops", "hyper_parameters", KEY)


def as_old_torch(content: object, path: Path) -> None:
    saved(content, path, _use_new_zipfile_serialization=False)


def as_pickle(content: object, path: Path) -> None:
    put(pickle.dumps(content), path)


def as_archive(
    content: object, path: Path, compression: int = zipfile.ZIP_STORED, more: Mapping[str, bytes] | None = None
) -> None:
    """A zip as torch reads it, whose pickle is of Python's newest protocol."""
    buffer = io.BytesIO()
    members = {"data.pkl": pickle.dumps(content), "version": b"3\n", "byteorder": b"little", **(more or {})}
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, member in members.items():
            archive.writestr(f"archive/{name}", member)
    put(buffer.getvalue(), path)


def as_compressed(content: object, path: Path) -> None:
    as_archive(content, path, zipfile.ZIP_DEFLATED)


def as_torchscript(content: object, path: Path) -> None:
    as_archive(content, path, more={"constants.pkl": pickle.dumps(()), "code/__torch__.py": b"class X: pass\n"})


def as_tar(content: object, path: Path) -> None:
    """The format of torch before 0.1.10."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            data = pickle.dumps(content)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    put(buffer.getvalue(), path)


FORMATS: Mapping[str, Callable[[object, Path], None]] = {
    "torch": saved,
    "old torch": as_old_torch,
    "pickle": as_pickle,
    "archive": as_archive,
    "compressed": as_compressed,
    "torchscript": as_torchscript,
    "tar": as_tar,
}


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server on this machine that gives out a folder: its address, and what it was asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, format: str, *values: Any) -> None:
            asked.append(format % values)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}", asked
        finally:
            running.shutdown()
            thread.join()


class Place(NamedTuple):
    """A folder with what an attacker has planted.

    Attributes:
        path: the current folder.
        asked: what the attacker's server was asked for.
        address: of the server.
    """

    path: Path
    asked: list[str]
    address: str

    def nothing_happened(self) -> None:
        """No payload was run, no planted module imported, and nothing fetched."""
        assert not (self.path / PROOF).exists()
        assert "evil" not in sys.modules
        assert self.asked == []


@contextmanager
def planted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Makes a folder with the module ``evil`` the current one, from which Python imports, beside a server."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    (folder / "evil.py").write_text(EVIL)
    with server(folder) as (address, asked):
        try:
            yield Place(folder, asked, address)
        finally:
            sys.modules.pop("evil", None)
