"""What a run computes on: whether devices, processes and precision go together, said before anything waits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry

from mapex_lightning.errors import MapexError
from mapex_lightning.train.sharded import NAME, PRECISIONS, TIMEOUT, FullySharded

PATIENT = {"predict": timedelta(minutes=60)}
"""Commands that wait longer than `TIMEOUT`: a map is put together by the first process when the slowest is done."""

TAKEN = ("32", "32-true", "bf16", "bf16-mixed", "16", "16-mixed")
"""As Lightning calls them."""

LONGEST = 60 * 24 * 365
"""Minutes that anybody may want to wait."""

INTERACTIVE = ("bash", "interactive")
"""Names of Slurm jobs in which a person types, and commands are not started by srun."""


def minutes(command: str) -> float:
    """How long a process of a command waits for the others, if nothing else is said."""
    return PATIENT.get(command, TIMEOUT).total_seconds() / 60


def set_timeout(minutes: float) -> None:
    """Lets every strategy that has a name wait for that long and no longer, however it is chosen.

    Raises:
        MapexError: no time is left to wait.
    """
    if not 0 < minutes <= LONGEST:  # NaN is none either
        raise MapexError(f"--timeout is a number of minutes above 0, at most {LONGEST:,}; found {minutes:g}.")
    timeout = timedelta(minutes=minutes)
    StrategyRegistry.register(NAME, FullySharded, "weights shared out over the processes", override=True)
    for entry in StrategyRegistry.values():
        if issubclass(entry["strategy"], DDPStrategy | FullySharded):
            entry["init_params"]["timeout"] = timeout


def check(settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Says what does not go together in the arguments of a Trainer, given how this process was started.

    Raises:
        MapexError: devices are missing, tasks do not equal devices, or the precision is not to be had.
    """
    kind = _kind(settings["accelerator"])
    _check_strategy(settings, kind)
    _check_interval(settings["val_check_interval"])
    if kind not in ("cpu", "cuda"):
        return
    if kind == "cuda":
        _check_binding(environment)
    devices, nodes = _count(settings["devices"], kind), int(settings["num_nodes"] or 1)
    if "TORCHELASTIC_RUN_ID" in environment:
        _check_launched("torchrun", "--nproc-per-node", _launched(environment, "LOCAL_WORLD_SIZE"), devices)
        world = int(environment.get("WORLD_SIZE", devices * nodes))
        if world != devices * nodes:
            raise MapexError(
                f"torchrun starts {world} processes in all, and {nodes} nodes with {devices} devices make "
                f"{devices * nodes}. Set trainer.num_nodes to torchrun's --nnodes."
            )
    elif "SLURM_NTASKS" in environment and environment.get("SLURM_JOB_NAME") not in INTERACTIVE:
        _check_slurm(environment, devices, nodes, alone=devices * nodes == 1 and settings["strategy"] == "auto")
    elif nodes > 1 and not {"MASTER_ADDR", "NODE_RANK"} <= environment.keys():
        raise MapexError(
            f"trainer.num_nodes is {nodes}, and this process knows neither where the others are nor its own number. "
            "Start mapex on every node by srun or torchrun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK."
        )


def _check_interval(interval: Any) -> None:
    """Each process would go by its own clock, and a run that goes on would pass over a validation."""
    if interval is not None and not isinstance(interval, int | float):
        raise MapexError(
            f"trainer.val_check_interval is a number of batches (1000) or a share of an epoch (0.25); found {interval}."
        )


def _check_binding(environment: Mapping[str, str]) -> None:
    """Lightning wants every task of a node to see all of its GPUs, and takes the one of its own number."""
    tasks = _launched(environment, "SLURM_NTASKS_PER_NODE") or 1
    if tasks > 1 and "SLURM_STEP_ID" in environment and torch.cuda.device_count() == 1:
        raise MapexError(
            f"Slurm starts {tasks} tasks per node, and this one sees a single GPU. Where the node has more, all tasks "
            "must see all of them: ask for --gpus-per-node instead of --gpus-per-task, or give srun --gpu-bind=none. "
            "Where it has one, --ntasks-per-node=1."
        )


def _kind(accelerator: Any) -> str:
    """The accelerator that is meant: cpu, cuda, or the word that was given."""
    found = CUDAAccelerator.is_available()
    if accelerator in ("gpu", "cuda") and not found and not (accelerator == "gpu" and MPSAccelerator.is_available()):
        raise MapexError(
            f"trainer.accelerator is {accelerator}, and PyTorch finds no GPU here (torch.cuda.is_available() is "
            "False). Set it to cpu or auto, or mend the driver; in a Slurm job ask for GPUs, such as --gpus-per-node=1."
        )
    if accelerator in ("auto", "gpu"):
        return "cuda" if found else "mps" if MPSAccelerator.is_available() else "cpu"
    return str(accelerator)


def _count(devices: Any, kind: str) -> int:
    """How many processes a node has by ``trainer.devices``: a number, numbers of devices, or all there are."""
    there = torch.cuda.device_count() if kind == "cuda" else 1
    if devices in ("auto", -1, "-1"):
        return there
    try:
        asked = [int(part) for part in devices.split(",") if part.strip()] if isinstance(devices, str) else devices
    except ValueError as error:
        raise MapexError(
            f"trainer.devices is how many (2), which ones (0,1), or auto; found {devices}. Whether they are GPUs is "
            "trainer.accelerator."
        ) from error
    if isinstance(asked, list) and isinstance(devices, str) and "," not in devices:
        (asked,) = asked  # one number in quotes is still how many
    count, needed = (asked, asked) if isinstance(asked, int) else (len(asked), max(asked, default=-1) + 1)
    if kind == "cuda" and needed > there:
        raise MapexError(
            f"trainer.devices is {devices}, and PyTorch finds {there} GPUs here. Set it to {there} or auto; if there "
            "should be more, look at CUDA_VISIBLE_DEVICES and at what the job has asked for."
        )
    if count < 1:
        raise MapexError(f"trainer.devices is 1 or more, or auto; found {devices}.")
    return int(count)


def _check_strategy(settings: Mapping[str, Any], kind: str) -> None:
    strategy, precision = settings["strategy"], str(settings["precision"] or "32-true")
    sharded = strategy == NAME or isinstance(strategy, FullySharded)
    if isinstance(strategy, str) and strategy.startswith("fsdp") and not sharded:
        raise MapexError(
            f"trainer.strategy {strategy} is the older FSDP, which mapex was not made for; use {NAME} (fsdp.yaml)."
        )
    if sharded and {"32": "32-true", "bf16": "bf16-mixed"}.get(precision, precision) not in PRECISIONS:
        raise MapexError(f"trainer.strategy {NAME} takes trainer.precision {' or '.join(PRECISIONS)}; not {precision}.")
    if precision not in TAKEN:
        raise MapexError(
            f"trainer.precision is 32-true, bf16-mixed or 16-mixed; not {precision}: routers, counts and pooling keep "
            "float32 whatever else is shorter."
        )
    if precision in ("16", "16-mixed") and kind == "cpu":
        raise MapexError(
            "trainer.precision 16-mixed needs a GPU; this run is on the CPU. Use 32-true, or bf16-mixed, which needs "
            "no scaler."
        )


def _launched(environment: Mapping[str, str], variable: str) -> int | None:
    return int(environment[variable]) if variable in environment else None


def _check_launched(launcher: str, option: str, processes: int | None, devices: int) -> None:
    """One process per device, as Lightning wants it: others would be waited for in vain."""
    if processes is not None and processes != devices:
        raise MapexError(
            f"{launcher} starts {processes} processes per node ({option}={processes}) and trainer.devices makes "
            f"{devices}. One process has one device: set trainer.devices to {processes}, or {option} to {devices}."
        )


def _check_slurm(environment: Mapping[str, str], devices: int, nodes: int, alone: bool) -> None:
    """Tasks against devices; Lightning takes any process that knows of Slurm's tasks for one of them."""
    tasks, told = int(environment["SLURM_NTASKS"]), "SLURM_NTASKS_PER_NODE" in environment
    if "SLURM_STEP_ID" not in environment:  # in the batch script itself
        if tasks == devices * nodes == 1 or (alone and told):
            return
        raise MapexError(
            f"This job has {tasks} tasks and mapex was started once, without srun: it would wait for others in vain. "
            "Write srun mapex ... in the batch script, with --ntasks-per-node equal to trainer.devices."
        )
    there = int(environment.get("SLURM_JOB_NUM_NODES", environment.get("SLURM_NNODES", nodes)))
    if there != nodes:
        raise MapexError(f"Slurm gave {there} nodes and trainer.num_nodes is {nodes}; set it to {there}.")
    if tasks > 1 and not told:
        raise MapexError(
            f"Slurm starts {tasks} tasks and was not told how many per node; give sbatch (or srun) "
            f"--ntasks-per-node={devices} instead of --ntasks."
        )
    _check_launched("Slurm", "--ntasks-per-node", _launched(environment, "SLURM_NTASKS_PER_NODE"), devices)
    if tasks != devices * nodes:
        raise MapexError(
            f"Slurm starts {tasks} tasks, and {nodes} nodes with {devices} devices each make {devices * nodes} "
            f"processes. Give sbatch --nodes={nodes} --ntasks-per-node={devices}, or set trainer.devices."
        )


def batch_line(trainer: Trainer, batch_size: int) -> str | None:
    """How many tiles an optimiser step takes, where that is not `batch_size`; None where it is."""
    parts = {"processes": trainer.world_size, "batches accumulated": trainer.accumulate_grad_batches}
    shown = [f"x {number} {word}" for word, number in parts.items() if number > 1]
    tiles = batch_size * trainer.world_size * trainer.accumulate_grad_batches
    return f"{tiles} tiles per step: {batch_size} {' '.join(shown)}" if shown else None
