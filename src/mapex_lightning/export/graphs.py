"""Graphs: a program as one file for torch.export or ONNX, which is kept only if it computes what the program does.

Axes: B tiles, C bands, H and W pixels, D width, K classes.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from mapex_lightning import __version__
from mapex_lightning.checkpoint import describe
from mapex_lightning.data.extras import imported
from mapex_lightning.errors import MapexError
from mapex_lightning.export.program import Program, chosen, physical, program_of, reduced, sides
from mapex_lightning.files import write_folder_whole
from mapex_lightning.modality import Modality

Form = Literal["torch", "onnx"]

FORMS: Mapping[Form, str] = {"torch": "model.pt2", "onnx": "model.onnx"}
"""The file of each form."""

RECORD = "export.json"
"""The file beside it: inputs, output, and how far the graph was found to deviate."""

LIMIT = 1e-4
"""Largest deviation of a graph that is kept; see `deviation`."""

Images = dict[str, Tensor]
Run = Callable[[Images], Tensor]


@dataclass(frozen=True)
class Check:
    """One comparison of a graph with the program that it was made from.

    Args:
        tiles: in the batch.
        holes: whether pixels were invalid and a sensor missing.
        deviation: see `deviation`.
    """

    tiles: int
    holes: bool
    deviation: float


@dataclass(frozen=True)
class Export:
    """What was written.

    Args:
        path: the file of the graph.
        inputs: names and shapes, B first.
        output: what it gives.
        checks: how far it was found to deviate.
    """

    path: Path
    inputs: Mapping[str, tuple[int | str, ...]]
    output: str
    checks: tuple[Check, ...]

    @property
    def deviation(self) -> float:
        """The largest of all checks; NaN, which is larger than any limit, where one of them is."""
        return float(np.max([check.deviation for check in self.checks]))


@torch.no_grad()
def deviation(found: Tensor, wanted: Tensor) -> float:
    """The largest absolute difference of two outputs, over the root mean square of the wanted one."""
    return float((found - wanted).abs().max() / wanted.square().mean().sqrt())


def write_graph(
    checkpoint: Mapping[str, Any],
    source: str,
    out: Path,
    form: Form,
    *,
    size: int,
    keep: Sequence[str] = (),
    batch: int | None = None,
    features: bool = False,
) -> Export:
    """Writes a checkpoint as a graph, with a record of what it is, into a folder; whole and right, or not at all.

    Args:
        checkpoint: as `mapex_lightning.checkpoint.read` returns it.
        source: where it comes from.
        out: the folder, which must not exist.
        form: ``torch`` for torch.export, ``onnx`` for ONNX.
        size: pixels per side of a tile of the finest sensor.
        keep: the sensors that are its inputs; all, if none are named.
        batch: tiles of a batch, where that is to be fixed.
        features: leave a head out.

    Raises:
        MapexError: a sensor is unknown, the size does not fit, a package is missing, the folder exists or cannot be
            written to, or the graph deviates from the program by more than `LIMIT`.
    """
    names = chosen(checkpoint, keep)
    config = describe(checkpoint).encoder
    sensors = [config.modality(name) for name in names]
    side = sides(sensors, size, config.patch)
    program = program_of(reduced(checkpoint, names), source, features)
    # What is compared with is the checkpoint as it is, so that what was left out is known not to matter.
    wanted: Run = program_of(checkpoint, source, features)
    if out.exists():
        raise MapexError(f"{out} exists already; give another folder with --out, or take it away first.")
    if form == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            imported(package, "export", "An export to ONNX")
    inputs: dict[str, tuple[int | str, ...]] = {
        m.name: ("batch" if batch is None else batch, len(m.bands), side[m.name], side[m.name]) for m in sensors
    }
    done: list[Export] = []

    def fill(folder: Path) -> None:
        folder.mkdir()
        file = folder / FORMS[form]
        graph = _traced(program, sensors, side, batch)
        if form == "torch":
            torch.export.save(graph, file)
        else:
            _write_onnx(graph, names, file)
        batches = [batch] if batch else [TRACED, 1, TRACED + 2]
        checks = tuple(_checks(wanted, load_graph(form, file), sensors, side, batches))
        done.append(Export(out / FORMS[form], inputs, _output(checkpoint, features), checks))
        if not done[0].deviation <= LIMIT:
            raise MapexError(
                f"The graph of {source} as {form} deviates from the program by {done[0].deviation:.1e} of its output, "
                f"more than {LIMIT:g}, and was not kept. Please report it with the versions of torch and of the form."
            )
        record = _record(checkpoint, source, form, sensors, inputs, done[0])
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    write_folder_whole(out, fill)
    return done[0]


TRACED = 3
"""Tiles of the batch that a graph is traced with; 0 and 1 would be taken for constants."""


def _traced(
    program: Program, sensors: Sequence[Modality], side: Mapping[str, int], batch: int | None
) -> ExportedProgram:
    images = physical(sensors, side, batch or TRACED, seed=0)
    free = None if batch else {"images": {name: {0: Dim("batch", min=1)} for name in images}}
    with torch.no_grad():
        return torch.export.export(program, (images,), dynamic_shapes=free)


def load_graph(form: Form, path: Path, threads: int | None = None) -> Run:
    """A graph as a function, on the CPU.

    Args:
        form: its form.
        path: its file.
        threads: of ONNX Runtime; torch has its own.
    """
    if form == "torch":
        run: Run = torch.export.load(path).module()
        return run
    runtime = imported("onnxruntime", "export", "An export to ONNX")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = threads or 0
    session = runtime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    def infer(images: Images) -> Tensor:
        (found,) = session.run(None, {name: image.numpy() for name, image in images.items()})
        return torch.from_numpy(found)

    return infer


def _write_onnx(graph: ExportedProgram, names: Sequence[str], path: Path) -> None:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of torch and onnxscript about themselves; the check below says what counts
            made = torch.onnx.export(
                graph, input_names=list(names), output_names=["output"], dynamo=True, verbose=False, optimize=True
            )
    finally:
        logger.setLevel(level)
    assert made is not None
    made.save(path)


@torch.no_grad()
def _checks(
    wanted: Run, run: Run, sensors: Sequence[Modality], side: Mapping[str, int], batches: Sequence[int]
) -> Sequence[Check]:
    """Compares on random tiles, with and without holes, of every batch size."""
    found = []
    for tiles in batches:
        for holes in (False, True):
            images = physical(sensors, side, tiles, seed=tiles, holes=holes)
            found.append(Check(tiles, holes, deviation(run(dict(images)), wanted(dict(images)))))
    return found


def _output(checkpoint: Mapping[str, Any], features: bool) -> str:
    description = describe(checkpoint)
    if description.head is None or features:
        return f"features (batch, {description.encoder.width})"
    classes = len(description.head["classes"])
    if description.head["task"] == "segmentation":
        return f"probabilities (batch, {classes}, rows, columns) on the grid of the finest sensor"
    return f"probabilities (batch, {classes})"


def _record(
    checkpoint: Mapping[str, Any],
    source: str,
    form: Form,
    sensors: Sequence[Modality],
    inputs: Mapping[str, tuple[int | str, ...]],
    export: Export,
) -> dict[str, Any]:
    description = describe(checkpoint)
    packages = {"mapex": __version__, "torch": torch.__version__}
    if form == "onnx":
        packages |= {name: imported(name, "export", "ONNX").__version__ for name in ("onnx", "onnxruntime")}
    return {
        "source": source,
        "form": form,
        "versions": packages,
        "lineage": list(description.lineage),
        "inputs": {m.name: {"shape": list(inputs[m.name]), **m.describe()} for m in sensors},
        "output": export.output,
        "classes": None if description.head is None else list(description.head["classes"]),
        "limit": LIMIT,
        "deviation": export.deviation,
        "checks": [vars(check) for check in export.checks],
    }
