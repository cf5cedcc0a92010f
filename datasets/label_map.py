"""Label maps: one stored value per pixel, and the class it stands for.

Shapes: (H, W) int32. A label map is read in the order in which its pixels are stored, and never resized or rotated:
EXIF orientation is for photographs. (Pillow applies that of a TIFF by itself; published label maps have none.)
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proxyclip.errors import InputError
from proxyclip.images import decode, open_image

VOID = -1  # in every label map that is read: pixels that are not scored, whatever value the dataset's own files use
INDEX_MODES = ("L", "P", "I", "I;16", "I;16B", "I;16L")  # of Pillow: one integer a pixel, a palette's index included


@dataclass(frozen=True)
class LabelValues:
    """The meaning of the stored values of a dataset.

    classes: number of classes. void: the stored value of pixels that are not scored, None if there is none.
    zero_is_void: whether the stored value 0 is not scored either, and the stored value k means class k - 1.
    """

    dataset: str
    classes: int
    void: int | None = 255
    zero_is_void: bool = False

    def read(self, path: Path) -> np.ndarray:
        """(H, W) int32: class indices, VOID where nothing is scored. InputError on any other stored value."""
        stored = read_indices(path)
        label = stored - 1 if self.zero_is_void else stored.copy()  # 0 becomes VOID
        if self.void is not None:
            label[stored == self.void] = VOID
        if (bad := (label < VOID) | (label >= self.classes)).any():
            known = f"{int(self.zero_is_void)} ... {self.classes - 1 + self.zero_is_void}"
            void = f" or {self.void} (void)" if self.void is not None else ""
            raise InputError(
                f"the label {path} contains the value {stored[bad][0]}, but {self.dataset} uses {known}{void}"
            )
        return label


def read_indices(path: Path) -> np.ndarray:
    """(H, W) int32: the stored values of a label map, which are a palette's indices if it has one."""
    with open_image(path, "label") as image:
        decode(image, f"label {path}")
        if image.mode not in INDEX_MODES:
            raise InputError(f"the label {path} has mode {image.mode}, not one class index per pixel")
        return np.asarray(image).astype(np.int32)


Colours = tuple[tuple[int, int, int], ...]


def pascal(count: int, first: int = 0) -> Colours:
    """Colours of the indices first ... first + count - 1 in the colour map of the PASCAL VOC development kit.

    Bit 3k of the index is bit 7-k of red, bit 3k+1 of green, bit 3k+2 of blue: small indices differ the most, and all
    indices below 2**24 differ. Index 0 is black.
    """

    def channel(index, shift):
        return sum((index >> (3 * k + shift) & 1) << (7 - k) for k in range(8))

    return tuple(tuple(channel(i, shift) for shift in range(3)) for i in range(first, first + count))


def _from_hex(digits: str) -> Colours:
    values = bytes.fromhex(digits)
    return tuple(zip(values[0::3], values[1::3], values[2::3], strict=True))


CITYSCAPES = _from_hex(
    "804080f423e846464666669cbe9999999999faaa1edcdc006b8e2398fb984682b4dc143cff000000008e000046003c640050640000e6770b20"
)
ADE20K = _from_hex(
    "787878b4787806e6e650323204c8037878508c8c8ccc05ffe6e6e604fa07e005ffebff0796053d78784608ff33ff06528fff8cccff04"
    "ff3307cc46030066c83de6faff06330b66ffff0747ff09e00907e6dcdcdcff095c7009ff08ffd607ffe0ffb8060aff47ff290a07ffff"
    "e0ff086608ffff3d06ffc207ff7a0800ff14ff0829ff05990633ffeb0cffa0961400a3ff8c8c8cfa0a0f14ff001fff00ff1f00ffe000"
    "99ff000000ffff470000ebff00adff1f00ff0bc8c8ff520000fff5003dff00ff7000ff85ff0000ffa300ff6600c2ff00008fff33ff00"
    "0052ff00ff2900ffad0a00ffadff0000ff99ff5c00ff00ffff00f5ff0066ffad00ff0014ffb8b8001fff00ff3d0047ffff00cc00ffc2"
    "00ff52000aff0070ff3300ff00c2ff007aff00ffa3ff990000ff0aff70008fff005200ffa3ff00ffeb0008b8aa8500ff00ff5cb800ff"
    "ff001f00b8ff00d6ffff00705cff0000e0ff70e0ff46b8a0a300ff9900ff47ff00ff00a3ffcc00ff008f00ffeb85ff00ff00ebf500ff"
    "ff007afff5000abed4d6ff0000ccff1400ffffff000099ff0029ff00ffcc2900ff29ff00ad00ff00f5ff4700ff7a00ff00ffb8005cff"
    "b8ff000085ffffd60019c2c266ff005c00ff"
)
COCO_STUFF = _from_hex(
    "f0808000c04000406080c0c000404000c0e000c0c080c04000c06080c0408020c00000e000004000a0c08000608000c00020c08080e0"
    "0000c080a0c080800080002080200080008040802000a000000000c080a00020000080804080a080a000008000c08020806080000080"
    "40002000e080800000c000a00060808080804000a080e080808040c000208060008000c000802040e0000000408080a04060000080c0"
    "0080a0c0e000008040808020c020800040c000002040a0808040408000a040208080c0c00000a0c0a08080c000800060c02000804080"
    "40806040a000004000c080e040200000c0804080e0c0a00000c000c08060c0608000408040006040e080804000c000e040608080c080"
    "4000e0c0e08080c040c00060c060008040c000806000e0004040408080e000600040c0c00080e080e00040c0408080608020804000c0"
    "00406000a080c000408040e0002080c080c00040e080a080c08000804020802040c0008040c02000a040400000c0c0a0002040408080"
    "40c0a080a040408000c0c0208060c040008040402000e0c0c00000c040a00060c0c080804040a080e0c0c08040c04020806040c000c0"
    "00c020eed19c40004080c0a04060404080c000c0a0c0e04040804080c020c020c04040c000402040a0c0c040408040a04020c0c0c0c0"
    "0040a0c0a0c0c0c000804060c02040c0408040c06040a040404000"
)
