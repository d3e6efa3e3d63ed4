"""A graph computes what the model does, for every subset of its sensors, or it is not kept."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from mapex_lightning.errors import MapexError
from mapex_lightning.export import graphs
from mapex_lightning.export.graphs import Form, deviation, write_graph
from mapex_lightning.export.program import program_of
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.heads import head_of
from mapex_lightning.pruning import prune
from tests.builders import checkpoint_of, config_of, encoder_of, observe, only, seal, tiles_of

NAMES = ("s1", "s2", "dem")
SUBSETS = [subset for size in (1, 2, 3) for subset in itertools.combinations(NAMES, size)]


def sealed() -> Encoder:
    encoder = encoder_of(config_of((6, 0, 5)))
    observe(encoder, tiles_of(encoder.config, 16))
    seal(encoder, 0.8)
    return encoder


def pruned(**policy: Any) -> dict[str, Any]:
    encoder = encoder_of(config_of((6, 0, 5), top_k=2))
    observe(encoder, tiles_of(encoder.config, 16))
    return prune(checkpoint_of(encoder), NAMES, **policy)[0]


def with_head(task: str, pool: str = "mean") -> dict[str, Any]:
    described = {"task": task, "classes": ["a", "b", "c"], "pool": pool}
    encoder = encoder_of(config_of())
    checkpoint = checkpoint_of(encoder, described)
    head = head_of(encoder.config, described)
    return checkpoint | {
        "state_dict": checkpoint["state_dict"] | {f"head.{name}": value for name, value in head.state_dict().items()}
    }


KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "top 1": lambda: checkpoint_of(encoder_of(config_of())),
    "top 2": lambda: checkpoint_of(encoder_of(config_of(top_k=2))),
    "dense": lambda: checkpoint_of(encoder_of(config_of((0, 0, 0)))),
    "one expert": lambda: checkpoint_of(encoder_of(config_of((1, 0, 1)))),
    "grouped, with a shared expert": lambda: checkpoint_of(encoder_of(config_of(router="grouped", top_k=2))),
    "free": lambda: checkpoint_of(encoder_of(config_of(router="free"))),
    "blind, low-rank": lambda: checkpoint_of(encoder_of(config_of(router="blind", low_rank=2))),
    "sealed": lambda: checkpoint_of(sealed()),
    "sealed and pruned": lambda: prune(checkpoint_of(sealed()), NAMES)[0],
    "pruned": lambda: pruned(),
    "classes": lambda: with_head("multiclass"),
    "labels, by redundancy": lambda: with_head("multilabel", "redundancy"),
    "map": lambda: with_head("segmentation"),
}


def test_a_graph_for_torch_gives_the_output_of_the_model_for_any_batch(tmp_path: Path) -> None:
    encoder = encoder_of(config_of((3, 0)))
    done = write_graph(checkpoint_of(encoder), "a test", tmp_path / "out", "torch", size=16, keep=("s1", "dem"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", "model.pt2"]
    run = torch.export.load(done.path).module()
    for count in (1, 2, 5):
        tiles = only(tiles_of(encoder.config, count, seed=count), "s1", "dem")
        assert deviation(run(dict(tiles.images)), encoder.pooled(tiles)) < 1e-5
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["inputs"]["dem"]["shape"] == ["batch", 1, 8, 8]
    assert record["inputs"]["s1"]["unit"] == "dB"
    assert record["output"] == "features (batch, 16)"
    assert {(check["tiles"], check["holes"]) for check in record["checks"]} == set(
        itertools.product((1, 3, 5), (True, False))
    )
    assert record["deviation"] == max(check["deviation"] for check in record["checks"]) < 1e-5


def test_a_graph_for_onnx_gives_the_output_of_the_model(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    encoder = encoder_of(config_of((2, 0)))
    done = write_graph(checkpoint_of(encoder), "a test", tmp_path / "out", "onnx", size=16, keep=("s2",))
    session = runtime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["s2"]
    for count in (1, 4):
        tiles = only(tiles_of(encoder.config, count, seed=count), "s2")
        (found,) = session.run(None, {"s2": tiles.images["s2"].numpy()})
        assert deviation(torch.from_numpy(found), encoder.pooled(tiles)) < 1e-5


def test_a_graph_that_gives_no_number_on_some_tiles_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([1e-6, math.nan, 1e-6])
    monkeypatch.setattr(graphs, "deviation", lambda *_: next(found, 1e-6))
    checkpoint = checkpoint_of(encoder_of(config_of((0,))))
    with pytest.raises(MapexError, match="deviates from the program by nan"):
        write_graph(checkpoint, "a test", tmp_path / "out", "torch", size=16)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_deviates_is_refused_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "LIMIT", -1.0)
    checkpoint = checkpoint_of(encoder_of(config_of((0,))))
    with pytest.raises(MapexError, match="deviates from the program"):
        write_graph(checkpoint, "a test", tmp_path / "out", "torch", size=16, keep=("s1",), batch=2)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        if name == "onnxscript":
            raise ModuleNotFoundError(name=name)
        return import_module(name)

    monkeypatch.setattr("mapex_lightning.data.extras.import_module", missing)
    with pytest.raises(MapexError, match=r"onnxscript.*mapex-lightning\[export\]"):
        write_graph(KINDS["dense"](), "a test", tmp_path / "out", "onnx", size=16)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("form", graphs.FORMS)
@pytest.mark.parametrize("keep", SUBSETS, ids="-".join)
@pytest.mark.parametrize("kind", KINDS)
def test_every_subset_of_sensors_is_exported_exactly(
    kind: str, keep: tuple[str, ...], form: Form, tmp_path: Path
) -> None:
    done = write_graph(KINDS[kind](), "a test", tmp_path / "out", form, size=16, keep=keep)
    assert tuple(done.inputs) == keep
    assert done.deviation < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("form", graphs.FORMS)
def test_a_fixed_batch_is_exported_too(form: Form, tmp_path: Path) -> None:
    checkpoint = KINDS["top 2"]()
    done = write_graph(checkpoint, "a test", tmp_path / "out", form, size=16, batch=1)
    assert {shape[0] for shape in done.inputs.values()} == {1}
    assert program_of(checkpoint, "a test")(dict(tiles_of(config_of(), 1).images)).shape == (1, 16)
