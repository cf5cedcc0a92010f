"""The shapes of all tensors that are computed, as memory and speed depend on them."""

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Shapes(TorchDispatchMode):
    """Collects the shape of every result inside it."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.found |= {tuple(leaf.shape) for leaf in tree_leaves(result) if hasattr(leaf, "shape")}
        return result
