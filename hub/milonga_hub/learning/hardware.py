"""What training runs on: one or several processes, a GPU or processors, and the precision that they are good at."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed

# What torch says where memory ends: on a GPU, and on processors.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def device() -> torch.device:
    """Return the GPU of this process, or the processors; a GPU is told to compute exactly, and the same each time."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # cuBLAS reads it when it starts: torch.use_deterministic_algorithms.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Outputs that builds are held against are fp32's, not those of 10 bits; training has bf16 for speed.
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def autocast(precision: str, where: torch.device) -> AbstractContextManager[Any]:
    """Return the context to compute in. Raises ValueError for a precision other than auto, fp32 or bf16."""
    if precision not in ("auto", "fp32", "bf16"):
        raise ValueError(f"there is no training precision {precision!r}; take auto, fp32 or bf16")
    if precision == "bf16" or (precision == "auto" and _fast_bf16(where)):
        context: AbstractContextManager[Any] = torch.autocast(where.type, torch.bfloat16)
        return context
    return nullcontext()


def _fast_bf16(where: torch.device) -> bool:
    """Whether bfloat16 products have units of their own; elsewhere autocast only costs time."""
    if where.type == "cuda":
        return bool(torch.cuda.get_device_capability(where) >= (8, 0))
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY)
    )


def moved(targets: Any, where: torch.device) -> Any:
    """Return targets, tensors or dictionaries of them, on the device."""
    if isinstance(targets, dict):
        return {key: moved(value, where) for key, value in targets.items()}
    return targets.to(where) if isinstance(targets, Tensor) else targets


def _transport() -> str:
    """Return what processes exchange tensors by: NCCL takes one process a GPU."""
    each_has_one = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= torch.cuda.device_count()
    return "nccl" if each_has_one else "gloo"


class Team:
    """The processes that train together; torchrun starts them and says so in the environment. Alone it is a team of one."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if self.size > 1 and not distributed.is_initialized():
            distributed.init_process_group(_transport())

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.size > 1:
            for one in tensors:
                distributed.all_reduce(one)

    def total(self, value: float) -> float:
        """Return the sum of one number of each process."""
        if self.size == 1:
            return value
        where = device() if distributed.get_backend() == "nccl" else torch.device("cpu")
        self.add([found := torch.tensor(value, dtype=torch.float32, device=where)])
        return float(found)

    def agree(self, values: list[Any]) -> list[Any]:
        """Return the leader's values in every process."""
        if self.size > 1:
            distributed.broadcast_object_list(values, src=0)
        return values
