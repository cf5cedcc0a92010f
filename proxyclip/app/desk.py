"""What the parts of the page share."""

from dataclasses import dataclass, field

from proxyclip.app.held import OpenImage, Result
from proxyclip.app.limits import Limits
from proxyclip.app.models import Models
from proxyclip.app.shelf import Shelf
from proxyclip.errors import InputError


@dataclass
class Desk:
    """The models, and what is held for everyone: three quarters of the memory for results, the rest for images."""

    models: Models
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self):
        self.images: Shelf[OpenImage] = Shelf(self.limits.memory_bytes // 4)
        self.results: Shelf[Result] = Shelf(self.limits.memory_bytes * 3 // 4)

    def open(self, image: OpenImage, instead_of: str = "") -> str:
        """The key of an image, which takes the place of another one and its results."""
        self.close(instead_of)
        return self.images.put(image)

    def close(self, key: str) -> None:
        if (image := self.images.get(key)) is not None:
            self.clear(image)
            self.images.drop(key)

    def clear(self, image: OpenImage) -> None:
        """Drops the results of an image."""
        for key in image.results:
            self.results.drop(key)
        image.results = []

    def image(self, key: str) -> OpenImage:
        """The image of that key; InputError if it is not held any more."""
        if not key:
            raise InputError("there is no image yet: open one, or choose an example")
        if (image := self.images.get(key)) is None:
            raise InputError("this image is no longer held by the server: open it again")
        return image

    def result(self, key: str) -> Result:
        """The result of that key; InputError if it is not held any more."""
        if (result := self.results.get(key)) is None:
            raise InputError("this result is no longer held by the server: segment the image again")
        return result
