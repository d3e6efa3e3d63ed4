"""Compiling changes neither the names of weights nor, but for rounding, what a model computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mapex_lightning.__main__ import main
from mapex_lightning.checkpoint import load, read
from mapex_lightning.errors import MapexError
from mapex_lightning.model.decoder import Decoder, decoder_for
from mapex_lightning.model.encoder import Encoder
from mapex_lightning.model.reconstruction import reconstruct
from mapex_lightning.model.target import mean_over_modalities
from mapex_lightning.train import compiled
from mapex_lightning.train.compiled import check_compiler, compile_in_place, parts_of
from tests.builders import config_of, encoder_of, tiles_of
from tests.workshop import finetune, pretrain

# torch.compile looks at the gradients of its inputs, leaves or not, and hides its own warning unless it is an error.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


class Model(nn.Module):
    """An encoder and its decoder."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.decoder = Decoder(encoder.config, decoder_for(encoder.config))

    def loss(self, step: int) -> Tensor:
        """Of one masked pass."""
        found = reconstruct(
            self.encoder, self.decoder, tiles_of(self.encoder.config, 6, step), 0.5, torch.Generator().manual_seed(step)
        )
        return mean_over_modalities(found.errors)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    torch.compiler.reset()


def model_of(low_rank: int = 2) -> Model:
    return Model(encoder_of(config_of((3, 0), low_rank=low_rank)))


def test_one_graph_per_part_serves_all_lengths_and_no_weight_changes_its_name() -> None:
    encoder, graphs = encoder_of(config_of((2, 0))), []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    keys, modules = list(encoder.state_dict()), [name for name, _ in encoder.named_modules()]
    batches = [tiles_of(encoder.config, count) for count in (3, 4, 6)]
    with torch.no_grad():
        wanted = [encoder.pooled(tiles) for tiles in batches]
        compile_in_place(encoder, backend)
        found = [encoder.pooled(tiles) for tiles in batches]
    torch.testing.assert_close(found, wanted)
    assert len(graphs) == len(list(parts_of(encoder)))
    assert list(encoder.state_dict()) == keys
    assert [name for name, _ in encoder.named_modules()] == modules


def test_a_torch_that_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def older(model: object = None, *, fullgraph: bool = False, dynamic: bool | None = None) -> None: ...

    monkeypatch.setattr(torch, "compile", older)
    with pytest.raises(MapexError, match=r"needs torch 2\.14 or newer, and this is"):
        check_compiler("cpu")


def test_all_but_the_experts_of_a_mixture_is_compiled() -> None:
    model = model_of()
    inside = {id(module) for part in parts_of(model) for module in part.modules()}
    names = {name for name, module in model.named_modules() if id(module) in inside}
    assert {"encoder.blocks.0.attention", "encoder.blocks.0.mixture.router", "encoder.blocks.0.low_rank"} <= names
    assert {"encoder.blocks.1", "encoder.blocks.1.dense.fc1", "decoder.blocks.0", "decoder.blocks.1"} <= names
    assert not [name for name in names if "experts" in name]


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_the_plain_model() -> None:
    plain, model = model_of(), model_of()
    compile_in_place(model, "eager")
    for step in range(3):  # other masks, other lengths
        losses = [one.loss(step) for one in (plain, model)]
        torch.testing.assert_close(losses[1], losses[0])
        for loss in losses:
            loss.backward()
    for wanted, found in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_without_a_compiler_it_says_so(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MapexError, match="no-such-compiler is not on the path"):
        check_compiler(device)


def test_without_triton_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "python3")
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    check_compiler("cpu")
    with pytest.raises(MapexError, match="triton"):
        check_compiler("cuda")


def test_the_command_line_refuses_in_a_sentence_before_a_run_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["fit", "--config", "pretrain.yaml", "--compile", "true", "--trainer.accelerator", "cpu"]) == 2
    assert "needs a C++ compiler" in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.slow
def test_compiled_and_plain_runs_go_on_from_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = pretrain("--data.modalities", "[s1, s2]")
    words = ["--data.modalities", "[s1, s2]", "--trainer.max_epochs", "2"]
    there = pretrain(*words, "--compile", "true", "--ckpt", str(plain), run="compiled")
    assert set(read(there)["state_dict"]) == set(read(plain)["state_dict"])
    back = pretrain(*words[:-1], "3", "--ckpt", str(there), run="back")
    load(back)
    finetune("--compile", "true", "--ckpt", str(back), "--data.modalities", "[s1, s2]")


@pytest.mark.slow
def test_inductors_losses_are_close_to_those_of_the_plain_model() -> None:
    plain, model = model_of(), model_of()
    compile_in_place(model)
    for step in range(3):
        torch.testing.assert_close(model.loss(step), plain.loss(step), rtol=1e-5, atol=1e-5)
        model.loss(step).backward()
