"""Images to try the page with: synthetic scenes, which the embedded models know, each with its names."""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "static" / "examples"


@dataclass(frozen=True)
class Example:
    """title: beneath its image. names: what is in it, as text for the list of names."""

    title: str
    names: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.names)


EXAMPLES = {
    "street": Example(
        "Winter road", ("sky", "snow; snowy ground", "road; street", "mountain", "sun", "tree", "car", "bird")
    ),
    "room": Example("Room", ("brick wall; wall", "wooden floor; floor", "car", "bird", "cup; mug")),
    "coast": Example("Coast", ("sky", "sea; ocean; water", "mountain", "sun", "cloud", "bird")),
    "garden": Example("Garden", ("sky", "sand; beach", "grass; meadow", "mountain", "flower", "mushroom", "bird")),
}


def file_of(name: str) -> Path:
    return FOLDER / f"{name}.png"
