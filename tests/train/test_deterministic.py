"""Deterministic mode: two runs are equal to the bit, and nothing is asked of CUDA that it cannot do in that mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import read
from mapex_lightning.data.tileset import Task
from mapex_lightning.model.auxiliary import Auxiliary, auxiliary_losses, total
from mapex_lightning.model.config import RouterMode
from mapex_lightning.model.decoder import Decoder, decoder_for
from mapex_lightning.model.experts import grouped_mlp
from mapex_lightning.model.heads import head_of
from mapex_lightning.model.reconstruction import reconstruct
from mapex_lightning.model.target import mean_over_modalities
from mapex_lightning.train.metrics import loss_of
from tests.builders import ROUTERS, config_of, encoder_of, tiles_of
from tests.workshop import SMALL, TILES, finetune, pretrain

NONE_ON_CUDA = (
    "nll_loss2d", "ctc_loss_backward", "put_", "histc", "kthvalue", "median", "grid_sampler_2d_backward",
    "grid_sampler_3d_backward", "upsample_linear1d_backward", "upsample_bilinear2d_backward",
    "upsample_bicubic2d_backward", "upsample_trilinear3d_backward", "avg_pool3d_backward", "max_unpool",
    "adaptive_avg_pool2d_backward", "adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward",
    "fractional_max_pool", "reflection_pad",
)  # fmt: skip
"""What raises on CUDA in deterministic mode, from the documentation of torch.use_deterministic_algorithms.

Left out are embedding_bag with mode max, bincount with weights, scatter_reduce with prod: they depend on arguments.
"""


class Called(TorchDispatchMode):
    """Notes the names of the operations that are called."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        self.names.add(func.__name__.partition(".")[0])
        return func(*args, **(kwargs or {}))

    @property
    def refused(self) -> set[str]:
        """Those that CUDA would refuse."""
        return {name for name in self.names if name.startswith(NONE_ON_CUDA)}


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def afterwards() -> Iterator[None]:
    """The Trainer sets the mode for the whole process."""
    yield
    torch.use_deterministic_algorithms(False)


def task_step(task: Task, router: RouterMode = "conditioned") -> Called:
    """What forward and backward of a task call."""
    config, called = config_of((4, 0), router=router, top_k=2), Called()
    head = head_of(config, {"task": task, "classes": "abc", "pool": "mean"})
    target: Tensor = torch.zeros(4, dtype=torch.int64)
    if task == "segmentation":
        target = torch.zeros(4, 16, 16, dtype=torch.int64)
    elif task == "multilabel":
        target = torch.zeros(4, 3)
    encoder, tiles = encoder_of(config).train(), tiles_of(config)
    with called:
        loss_of(task, head(encoder, tiles), target).backward()
    assert called.names
    return called


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("task", get_args(Task))
@pytest.mark.parametrize("router", ROUTERS)
def test_no_task_calls_what_cuda_refuses_in_deterministic_mode(task: Task, router: RouterMode) -> None:
    assert task_step(task, router).refused == set()


@pytest.mark.usefixtures("deterministic")
def test_pre_training_calls_nothing_that_cuda_refuses_in_deterministic_mode() -> None:
    encoder, called = encoder_of(config_of((4, 0))), Called()
    decoder = Decoder(encoder.config, decoder_for(encoder.config))
    with called, encoder.observe():
        found = reconstruct(encoder, decoder, tiles_of(encoder.config), 0.5, torch.Generator().manual_seed(0))
        losses = auxiliary_losses(found.assignments, len(encoder.config.names))
        (mean_over_modalities(found.errors) + total(losses, Auxiliary())).backward()
    assert called.names
    assert called.refused == set()


@pytest.mark.usefixtures("deterministic")
def test_the_grouped_product_of_gpus_calls_nothing_that_cuda_refuses() -> None:
    rows, inner, outer = (
        torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for shape in ((6, 16), (2, 32, 16), (2, 16, 32))
    )
    biases = [torch.zeros(2, width, dtype=torch.bfloat16, requires_grad=True) for width in (32, 16)]
    called = Called()
    with called:
        grouped_mlp(rows, torch.tensor([4, 2]), inner, biases[0], outer, biases[1]).sum().backward()
    assert called.names
    assert called.refused == set()


@pytest.mark.parametrize("mode", [True, False])
def test_torch_widens_maps_by_other_operations_in_deterministic_mode(mode: bool, deterministic: None) -> None:
    torch.use_deterministic_algorithms(mode)
    logits, called = torch.zeros(1, 3, 8, 8, device="meta", requires_grad=True), Called()
    with called:
        F.interpolate(logits, (20, 20), mode="bilinear", align_corners=False).sum().backward()
    assert called.refused == (set() if mode else {"upsample_bilinear2d_backward"})


def test_the_search_finds_the_loss_of_maps_that_cuda_refuses() -> None:
    assert task_step("segmentation").refused == {"nll_loss2d_forward", "nll_loss2d_backward"}


def test_the_loss_of_maps_is_the_same_in_deterministic_mode(deterministic: None) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(-1, 3, (2, 5, 5), generator=generator)
    found = loss_of("segmentation", logits, target)
    torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found, loss_of("segmentation", logits, target))


def state_of(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = read(path)["state_dict"]
    return state


@pytest.mark.slow
@pytest.mark.usefixtures("afterwards")
@pytest.mark.parametrize("task", ["pretrain", *get_args(Task)])
def test_two_deterministic_runs_are_equal_to_the_bit(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # the Trainer sets it, for CUDA
    words = ["--trainer.deterministic", "true", "--data.modalities", "[s1, s2]"]
    config = "segment.yaml" if task == "segmentation" else "synthetic.yaml"
    found = []
    for run in ("one", "two"):
        if task == "pretrain":
            found.append(state_of(pretrain(*words, run=run)))
        else:
            more = [*words, "--model.encoder", "nano"]
            found.append(state_of(finetune(*more, config=config, task=task, run=run)))
            tiles = TILES.replace("missing: 0.2", f"missing: 0.2, task: {task}")
            assert main(["test", "--config", config, "--data.sets", tiles, *SMALL, "--run", run, *more]) == 0
    assert torch.are_deterministic_algorithms_enabled()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
