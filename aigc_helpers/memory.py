"""How many bytes of tensors are alive, and how many were at the highest point.

    with TensorMemory() as memory:
        loss = ...
        loss.backward()
    memory.peak                                    # bytes

Every operation of PyTorch is watched while the block runs: what it returns is counted until the last
tensor that uses it is gone. It sees what the operations return on any device, and not the room that
they need inside, nor what the process itself takes.
"""

from __future__ import annotations

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorMemory(TorchDispatchMode):
    """The bytes of tensors made inside a `with` block: `now`, those alive, and `peak`, the most there were.

    Tensors that were there before do not count, but for those in `tensors`, such as a model's weights.
    """

    def __init__(self, tensors=()):
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known = weakref.WeakSet()
        for tensor in tensors:
            self._count(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in _tensors((args, kwargs)):
            self._known.add(tensor.untyped_storage())  # it was there before, so a view of it is nothing new
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._count(tensor)
        return result

    def _count(self, tensor):
        """Count what a tensor's numbers are kept in, once, until nobody uses it any more."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, size).atexit = False

    def _forget(self, size):
        self.now -= size


def _tensors(values):
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
