"""Text embeddings in memory: what a model has encoded, until one of its text weights changes."""

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from proxyclip.backbones.clip import DenseCLIP

MAX_BYTES = 128 * 2**20  # per model; 847 classes of ViT-B/16 take 3.5 MB


class TextMemory:
    """The embeddings of one model by key, at most `max_bytes` in total; the least recently used are dropped first.

    `fingerprint` is that of the model's text weights, computed when first needed, because hashing them takes a second.
    """

    def __init__(self, max_bytes: int = MAX_BYTES):
        self.max_bytes, self.bytes, self.fingerprint = max_bytes, 0, None
        self._entries: OrderedDict[Hashable, tuple[Tensor, int]] = OrderedDict()  # a tensor and its version
        self._lock = Lock()

    def get(self, key: Hashable) -> Tensor | None:
        """The tensor of that key; None if there is none, or if a caller changed it in place."""
        with self._lock:
            tensor, version = self._entries.get(key, (None, None))
            if tensor is None or tensor._version != version:
                return None
            self._entries.move_to_end(key)
            return tensor

    def put(self, key: Hashable, tensor: Tensor) -> None:
        """Adds a tensor that owns its storage; one larger than `max_bytes` is not held."""
        with self._lock:
            if key in self._entries:
                self.bytes -= self._entries.pop(key)[0].nbytes
            if tensor.nbytes > self.max_bytes:
                return
            self._entries[key] = (tensor, tensor._version)
            self.bytes += tensor.nbytes
            while self.bytes > self.max_bytes:
                _, (oldest, _) = self._entries.popitem(last=False)
                self.bytes -= oldest.nbytes


_memories: WeakKeyDictionary[DenseCLIP, tuple[tuple, TextMemory]] = WeakKeyDictionary()  # goes with its model


def memory_of(clip: DenseCLIP, weights: list[nn.Parameter]) -> TextMemory:
    """The model's memory; empty if one of the text weights was changed, moved or replaced since the last call, or since
    `remember`."""
    state = state_of(weights)
    known, memory = _memories.get(clip, (None, None))
    if state is None or state != known:
        memory = TextMemory()
        _memories[clip] = (state, memory)
    return memory


def remember(clip: DenseCLIP, memory: TextMemory) -> None:
    """Keeps a memory for the weights as they are now, which were moved but not changed."""
    _memories[clip] = (state_of(text_parameters(clip)), memory)


def forget(clip: DenseCLIP) -> None:
    """Drops what is held for a model."""
    _memories.pop(clip, None)


def text_parameters(clip: DenseCLIP) -> list[nn.Parameter]:
    """All weights of the CLIP model but the image tower's."""
    towers = [child for name, child in clip.model.named_children() if name != "visual"]
    return [*clip.model.parameters(recurse=False), *(weight for tower in towers for weight in tower.parameters())]


def state_of(weights: list[nn.Parameter]) -> tuple | None:
    """Changes whenever a weight does, at the cost of 0.1 ms; None where PyTorch does not count changes."""
    if any(weight.is_inference() for weight in weights):
        return None
    return tuple((weight.data_ptr(), weight._version) for weight in weights)
