"""The upsampling decoder of CAT-Seg: each class's map, twice as large at every step, guided by features of the image.

Cho et al., CAT-Seg, 2024, §3.3: a transposed convolution, concatenation with the guidance, and two convolutions.

The transposed convolution and the first convolution are linear with nothing in between, so they are one convolution of
the small map with 2 × 2 kernels, one for each of the four pixels that a patch becomes. The guidance is the same for all
classes, so its share of the first convolution is computed once for an image.

Shapes: B images, K classes, N = B * K, h × w the map, C channels of the map, M after the transposed convolution, G of
the guidance, O of the result.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Row a, b of the result lies s - 1 + a, ... rows away: SHIFTS[a, s, y, p] is 1 where row y of a 3 x 3 kernel, for pixel
# a of a patch, meets pixel p of the patch s - 1 + a rows further down.
SHIFTS = torch.zeros(2, 2, 3, 2)
for _pixel in range(2):
    for _row in range(3):
        _place = _pixel + _row - 1
        SHIFTS[_pixel, _place // 2 + 1 - _pixel, _row, _place % 2] = 1


class UpsamplingBlock(nn.Module):
    """(B, K, h, w, C) -> (B, K, 2 h, 2 w, O)."""

    def __init__(self, channels: int, guidance: int, out: int):
        super().__init__()
        self.lift = nn.ConvTranspose2d(channels, channels - guidance, kernel_size=2, stride=2)
        self.first = nn.Conv2d(channels, out, kernel_size=3, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(out // 16, out)
        self.second = nn.Conv2d(out, out, kernel_size=3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(out // 16, out)
        self.register_buffer("shifts", SHIFTS.clone(), persistent=False)

    def share(self, guidance: Tensor) -> tuple[Tensor, Tensor]:
        """What all classes share, from the guidance (B, G, 2 h, 2 w): kernels (4 O, C, 2, 2), and the summand
        (B, h, 2, w, 2, O) of guidance and bias."""
        middle = self.lift.bias.shape[0]
        bias = self.lift.bias.to(guidance.dtype)[None, :, None, None].expand(len(guidance), -1, *guidance.shape[-2:])
        summand = self.first(torch.cat([bias, guidance], dim=1)).permute(0, 2, 3, 1)  # (B, 2 h, 2 w, O)
        weight = torch.einsum("omyx,asyp,btxq->asbtompq", self.first.weight[:, :middle], self.shifts, self.shifts)
        kernels = torch.einsum("asbtompq,cmpq->abocst", weight, self.lift.weight)  # (2, 2, O, C, 2, 2)
        return kernels.flatten(0, 2), summand.unflatten(1, (-1, 2)).unflatten(3, (-1, 2))

    def forward(self, x: Tensor, kernels: Tensor, summand: Tensor) -> Tensor:
        batch, classes, height, width, _ = x.shape
        maps = x.flatten(0, 1).permute(0, 3, 1, 2)  # (N, C, h, w)
        found = F.conv2d(maps, kernels, padding=1).permute(0, 2, 3, 1)  # (N, h + 1, w + 1, 4 O)
        found = found.unflatten(3, (2, 2, -1))  # (N, h + 1, w + 1, 2, 2, O)
        rows = [
            torch.stack([found[:, a : a + height, b : b + width, a, b] for b in range(2)], dim=3) for a in range(2)
        ]  # (N, h, w, 2, O) each
        found = torch.stack(rows, dim=2).unflatten(0, (batch, classes)) + summand[:, None]  # (B, K, h, 2, w, 2, O)
        found = found.flatten(0, 1).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)  # (N, O, 2 h, 2 w)
        found = self.first_norm(found).relu_()
        found = self.second_norm(self.second(found)).relu_()
        return found.permute(0, 2, 3, 1).unflatten(0, (batch, classes))  # (B, K, 2 h, 2 w, O)
