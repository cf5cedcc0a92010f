"""A stand-in for an accelerator on a machine without one: PyTorch's "meta" device, which has shapes but no values.

Whatever waits for values (`item()`, `bool(tensor)`, `tolist()`, `nonzero()`, a mask as an index, `.cpu()`) raises an
error there. What copies from the host, or mixes tensors of both, is listed.
"""

from contextlib import contextmanager

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")
FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)
INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)


class FromNumbers(TorchFunctionMode):
    """Lists calls that make tensors of the device from Python's numbers or NumPy's: copies that nothing else tells."""

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in FROM_NUMBERS and result.device == DEVICE and not isinstance(args[-1], torch.Tensor):
            self.found.append(function.__name__)
        index = args[1] if function in INDEXING and args[0].device == DEVICE else ()
        if any(isinstance(part, (list, np.ndarray)) for part in (index if isinstance(index, tuple) else (index,))):
            self.found.append("index")
        return result


class AcrossDevices(TorchDispatchMode):
    """Lists operations that see tensors of both the host and the device.

    Single numbers (tensors without dimensions) may stay on the host: a kernel takes them as arguments.
    """

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        # A copy that crosses over has a tensor on either side, whatever its size.
        counted = tensors if "copy" in str(function) else [tensor for tensor in tensors if tensor.ndim]
        if len({tensor.device.type for tensor in counted}) > 1:
            self.found.append(str(function))
        return result


@contextmanager
def host_traffic():
    """Gives the list of what is copied or mixed inside."""
    found = []
    with FromNumbers(found), AcrossDevices(found):
        yield found
