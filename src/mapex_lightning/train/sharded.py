"""FSDP2: weights, gradients and optimiser states shared out over the processes, in checkpoints as whole as any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import chain, pairwise
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from mapex_lightning.model.block import Block
from mapex_lightning.model.decoder import CrossBlock
from mapex_lightning.model.experts import Experts

NAME = "fsdp2"
"""What the Trainer knows the strategy by."""

PRECISIONS = ("32-true", "bf16-mixed")
"""What it has been made for. Float16 would need a gradient scaler that Lightning does not have for it."""
TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others where nothing else is said."""


class FullySharded(ModelParallelStrategy):
    """Every process keeps its share of each weight and gathers a block's weights while it works on that block.

    The steps are those of DDP to rounding. A checkpoint is one ordinary file, written by the first process through the
    Trainer's CheckpointIO, and may be resumed under any strategy.

    Only training is sharded: evaluation and prediction by themselves need the weights alone, and keep them whole.
    Validation in between gathers all weights first, because processes may have different numbers of batches.

    Args:
        process_group_backend: of torch.distributed; by default ``nccl`` on GPUs and ``gloo`` on CPUs.
        timeout: how long a process waits for the others.
    """

    def __init__(self, process_group_backend: str | None = None, timeout: timedelta = TIMEOUT) -> None:
        super().__init__(
            data_parallel_size=1,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )
        self._gathered = False

    def setup_environment(self) -> None:
        """All processes share the weights out; Lightning's default would be to share them out per node."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, module: LightningModule, passes: Sequence[str]) -> None:
        """Shares out the weights of a module that is to be trained; see `share_out`."""
        for tensor in chain(module.parameters(), module.buffers()):  # as DDP does: what differed is the first one's
            moved = tensor.detach().to(self.root_device)
            torch.distributed.broadcast(moved, 0)
            tensor.data.copy_(moved)
        share_out(module, self.device_mesh["data_parallel"], passes, half=self.precision_plugin.precision != "32-true")

    def on_validation_start(self) -> None:
        """Gathers all weights, so that from now on no process waits for another."""
        for part in self._parts():
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        self._gathered = True

    def on_validation_end(self) -> None:
        """Keeps but a share again."""
        self._gathered = False
        for part in self._parts():
            part.reshard()
            # The outermost module, whose weights the backward pass wants first, would only gather them again.
            part.set_reshard_after_forward(not isinstance(part, LightningModule), recurse=False)

    def _parts(self) -> list[FSDPModule]:
        assert self.model is not None
        return [part for part in self.model.modules() if isinstance(part, FSDPModule)]

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights as one process would have them, on the first; to ask for them shares them out again."""
        state = super().lightning_module_state_dict()
        if self._gathered:  # a save within a validation
            self.on_validation_start()
        return state

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state of an optimiser as one process would have it; on all but the first process without its tensors."""
        state = optimizer.state_dict()
        return {
            **state,
            "state": {
                number: {key: self._whole(value) for key, value in each.items()}
                for number, each in state["state"].items()
            },
        }

    def _whole(self, value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        whole = value.full_tensor()  # all take part
        return whole.cpu() if self.is_global_zero else None

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a checkpoint through the CheckpointIO, and takes this process's share of weights and states."""
        assert self.model is not None
        found: dict[str, Any] = self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)
        set_model_state_dict(self.model, found["state_dict"], options=StateDictOptions(full_state_dict=True))
        for number, optimizer in enumerate(self.optimizers):
            optimizer.load_state_dict(_shared_out(optimizer, found["optimizer_states"][number]))
        return found


def share_out(module: nn.Module, mesh: DeviceMesh, passes: Sequence[str] = (), half: bool = False) -> None:
    """Shares out the weights of a module, block by block and then the rest.

    Args:
        module: the module.
        mesh: the processes.
        passes: the names of its methods, beside ``forward``, that are a pass through its weights. A training step makes
            exactly one pass: processes that made different numbers would wait for each other for ever.
        half: whether products are made in bfloat16, by autocast. Then experts, most of the weights, travel in it; their
            gradients are added up in float32, and all else, routers above all, keeps float32 throughout.
    """
    whole = MixedPrecisionPolicy(cast_forward_inputs=False)
    short = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    order: list[nn.Module] = [module]
    for block in [part for part in module.modules() if isinstance(part, Block | CrossBlock)]:
        experts: list[nn.Module] = [part for part in block.modules() if isinstance(part, Experts)]
        if half and experts:
            fully_shard(experts, mesh=mesh, mp_policy=short)
            order.append(experts[0])
        fully_shard(block, mesh=mesh, mp_policy=whole)
        order.append(block)
    fully_shard(module, mesh=mesh, mp_policy=whole)
    # On the way back each part asks for the one before it, as by default; but the default goes by the passes since the
    # last step, and these differ between processes after a validation: their numbers of batches, the first's pictures.
    for before, part in pairwise(order):
        assert isinstance(before, FSDPModule)
        assert isinstance(part, FSDPModule)
        part.set_modules_to_backward_prefetch([before])
    for name in passes:
        register_fsdp_forward_method(module, name)


def _shared_out(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an optimiser, as a checkpoint holds it, with this process's share of every tensor."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    of = dict(zip(numbers, weights, strict=True))
    shares = {
        number: {key: _share(value, of[number]) for key, value in each.items()}
        for number, each in state["state"].items()
    }
    return {**state, "state": shares}


def _share(value: Any, weight: Tensor) -> Any:
    if not isinstance(weight, DTensor) or not isinstance(value, Tensor) or value.shape != weight.shape:
        return value
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)
