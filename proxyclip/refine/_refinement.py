"""What all refinements share.

Shapes: q queries of a block of them, H × W the label map.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from typing import NamedTuple

from torch import Tensor

# The maps of some queries, computed when they are asked for: a slice of the queries -> (q, H, W) float32. The maps of
# all queries at once may not fit in memory.
Maps = Callable[[slice], Tensor]


class Guide(NamedTuple):
    """What a refinement knows about an image besides its scores.

    image: (3, H, W) RGB in [0, 1]: the image as the model sees it, resized to the size of the labels. name: of the
    image, without its ending, as in "a/b"; None where it has none. queries: how many maps there are. text: their text
    embeddings (queries, E), for models that have one per query.
    """

    image: Tensor
    name: str | None
    queries: int = 0
    text: Tensor | None = None


class Refinement:
    """Refined score maps from score maps at the size of the labels, before the logit scale and the softmax.

    A refinement defines `__call__`, and `settings` and `check` if it depends on files.
    """

    def __init__(self, options):
        super().__init__()
        self.options = options

    def __call__(self, maps: Maps, guide: Guide) -> Maps:
        raise NotImplementedError

    def check(self, names: Iterable[str]) -> None:
        """Raises NotFound or InputError if an image with one of these names cannot be refined."""

    def settings(self) -> dict:
        """Everything that the result depends on besides maps and image, ready for JSON."""
        options = asdict(self.options).items()
        return {"name": self.name} | {key: list(value) if isinstance(value, tuple) else value for key, value in options}

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    @property
    def title(self) -> str:
        """The name for tables, with the options that are not the default: "pamr", "pamr:steps=5"."""
        changed = [field.name for field in fields(self.options) if getattr(self.options, field.name) != field.default]
        return ":".join([self.name, *(f"{name}={text(getattr(self.options, name))}" for name in changed)])


def text(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
