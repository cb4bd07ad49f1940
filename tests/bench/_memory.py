"""Peak memory of a piece of work, on the CPU as on CUDA."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def extra_megabytes(work: Callable, device: str) -> float:
    """The most that is allocated at any time while `work` runs, beyond what was there before."""
    if device == "cuda":
        work()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with Allocations() as allocations:
        work()
    return allocations.peak / 1e6


class Allocations(TorchDispatchMode):
    """Counts every storage from the operation that returns it until no tensor uses it. Kernels' own buffers are not seen."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.users: Counter[int] = Counter()
        self.foreign: set[int] = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        given = {key_of(tensor) for tensor in tree_leaves((arguments, keywords)) if torch.is_tensor(tensor)}
        self.foreign |= given - self.users.keys()
        result = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor) and key_of(tensor) not in self.foreign:
                self.hold(tensor, key_of(tensor), tensor.untyped_storage().nbytes())
        return result

    def hold(self, tensor, key: int, size: int) -> None:
        self.live += size if not self.users[key] else 0
        self.users[key] += 1
        self.peak = max(self.peak, self.live)
        weakref.finalize(tensor, self.release, key, size)

    def release(self, key: int, size: int) -> None:
        self.users[key] -= 1
        if not self.users[key]:
            del self.users[key]
            self.live -= size


def key_of(tensor) -> int:
    return tensor.untyped_storage()._cdata
