"""What an export says about the image that a result belongs to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageRecord:
    """name: the output name without an ending, such as "a/b", unique within a job. file_name: the path of the image
    relative to the folder it was found in, with its ending."""

    name: str
    file_name: str
