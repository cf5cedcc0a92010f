"""What the page accepts from a person."""

from dataclasses import dataclass, fields

from proxyclip.errors import InputError
from proxyclip.options import LARGEST

MEGABYTE = 10**6  # bytes, as file managers count


@dataclass(frozen=True)
class Limits:
    """max_pixels: of an image. max_upload: of its file, in MB. max_names: single names in a list. max_letters: of a
    name. max_memory: of all images and results that are held for the people on the page, in MB."""

    max_pixels: int = 16_000_000
    max_upload: int = 32
    max_names: int = 200
    max_letters: int = 100
    max_memory: int = 1000

    def __post_init__(self):
        for field in fields(self):
            most = 100_000_000 if field.name == "max_pixels" else LARGEST
            if not 1 <= getattr(self, field.name) <= most:
                flag = f"--{field.name.replace('_', '-')}"
                raise InputError(f"{flag} is {getattr(self, field.name)}; choose a number from 1 to {most}")

    @property
    def upload_bytes(self) -> int:
        return self.max_upload * MEGABYTE

    @property
    def memory_bytes(self) -> int:
        return self.max_memory * MEGABYTE
