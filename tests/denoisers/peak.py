"""The memory that is alive at once."""

import weakref

import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode


class Peak(TorchDispatchMode):
    """The largest number of bytes that tensors made within the context hold at once."""

    def __init__(self):
        super().__init__()
        self.users, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in _pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                self.users[key] = self.users.get(key, 0) + 1
                self.now += size if self.users[key] == 1 else 0
                self.peak = max(self.peak, self.now)
                weakref.finalize(tensor, self.freed, key, size)
        return out

    def freed(self, key, size):
        self.users[key] -= 1
        self.now -= size if self.users[key] == 0 else 0
