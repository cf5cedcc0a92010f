"""CLIP's image encoder, run block by block through open_clip's public attributes, and its text encoder.

Shapes: B windows, T = 1 + h * w tokens (the class token first), D width, E joint embedding width.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from proxyclip.backbones.checkpoints import fingerprint, signs_of_change
from proxyclip.backbones.layers import Normalise, linear, resample, run_block


class DenseCLIP(nn.Module):
    """An open_clip model with an embedding for every patch instead of one for the image.

    `model` is an open_clip CLIP with a standard vision transformer, `tokenizer` its tokenizer, `mean` and `std` the
    colour statistics of its training data, `name` its name in records.
    """

    def __init__(self, model: nn.Module, tokenizer, mean, std, name: str):
        super().__init__()
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.normalise = Normalise(mean, std)
        self.patch_size = self.visual.patch_size[0]
        self._fingerprint = None, ""  # the state of the weights, and their fingerprint in that state
        self.text_embeddings: dict = {}  # by fingerprint: see proxyclip.text

    @property
    def visual(self) -> nn.Module:
        """The image tower."""
        return self.model.visual

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean colour of the training data."""
        return self.normalise.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of the training data."""
        return self.normalise.std

    @property
    def device(self) -> torch.device:
        return self.visual.conv1.weight.device

    def text_parameters(self) -> list[nn.Parameter]:
        """All weights of the CLIP model but the image tower's."""
        return [weight for name, weight in self.model.named_parameters() if not name.startswith("visual.")]

    @property
    def activation(self) -> str:
        """The activation function of both towers: "QuickGELU" or "GELU"."""
        return type(self.blocks[0].mlp.gelu).__name__

    @property
    def fingerprint(self) -> str:
        """Of all that text embeddings depend on: the weights as they are now, and settings that no weight holds.

        Some published weights go with QuickGELU, and open_clip builds the same architecture with either.
        """
        weights = {k: v for k, v in self.model.state_dict().items() if not k.startswith("visual.")}
        signs = signs_of_change(weights.values())
        if self._fingerprint[0] != signs:
            block = self.model.transformer.resblocks[0]
            weights["heads"] = torch.tensor(block.attn.num_heads)
            weights[f"activation {type(block.mlp.gelu).__name__}"] = torch.zeros(0)
            self._fingerprint = signs, fingerprint(weights)
        return self._fingerprint[1]

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the image tower."""
        return self.visual.conv1.weight.dtype

    def position_table(self, height: int, width: int, offset: float | None = 0.1, antialias: bool = False) -> Tensor:
        """(1 + h * w, D): the position table, resampled to a patch grid of that height and width.

        As the published code does: bicubic, with the scale factor (n + 0.1) / M itself setting the sampling points,
        and left as it is where the number of patches agrees; with antialiasing, resampled there as well. offset,
        antialias: see `resample`.
        """
        table = self.visual.positional_embedding  # (1 + M * M, D)
        if len(table) == 1 + height * width and not antialias:
            return table
        native = table[1:].unflatten(0, self.visual.grid_size)  # (M, M, D)
        grid = resample(native, (height, width), offset, antialias)  # (h, w, D)
        return torch.cat([table[:1], grid.flatten(0, 1).to(table.dtype)])  # (1 + h * w, D)

    def embed(self, images: Tensor, offset: float | None = 0.1, antialias: bool = False) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> tokens (B, T, D) as they enter the first block.

        Rows and columns beyond the last whole patch are ignored. offset, antialias: see `position_table`.
        """
        visual = self.visual
        patches = visual.conv1(self.normalise(images).to(self.dtype))  # (B, D, h, w)
        table = self.position_table(*patches.shape[-2:], offset, antialias)
        class_token = visual.class_embedding.to(self.dtype).expand(len(images), 1, -1)  # (B, 1, D)
        return visual.ln_pre(torch.cat([class_token, patches.flatten(2).mT], dim=1) + table)  # (B, T, D)

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks of the image tower, first to last."""
        return self.visual.transformer.resblocks

    def states(self, images: Tensor) -> Iterator[Tensor]:
        """(B, 3, H, W) RGB in [0, 1] -> tokens (B, T, D) as they enter each block, one block after the other."""
        tokens = self.embed(images)
        yield tokens
        for block in self.blocks[:-1]:
            tokens = run_block(block, tokens)
            yield tokens

    def before_last_block(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> tokens (B, T, D) after all blocks but the last."""
        for tokens in self.states(images):
            last = tokens
        return last

    def finish(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) as after the last block -> joint embeddings (B, N, E), not normalised."""
        return linear(self.visual.ln_post(tokens), self.visual.proj.T)

    def values(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> (B, D, h, w): each patch's value in the last block's attention."""
        block = self.blocks[-1]
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias  # (3 D, D), (3 D): queries, keys, values
        width = weight.shape[1]
        patches = block.ln_1(self.before_last_block(images)[:, 1:])  # (B, h * w, D)
        values = linear(patches, weight[2 * width :], bias[2 * width :])  # (B, h * w, D)
        return values.mT.unflatten(2, self.grid(images))  # (B, D, h, w)

    def project(self, mixed: Tensor) -> Tensor:
        """Mixed values (B, N, D) -> joint embeddings (B, N, E), not normalised.

        The last block's output projection, the final norm and projection: no residual and no MLP (ProxyCLIP, §3.2).
        """
        out = self.blocks[-1].attn.out_proj
        return self.finish(linear(mixed, out.weight, out.bias))

    def vanilla(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> (B, E, h, w): the patch tokens of the unchanged CLIP, not normalised."""
        tokens = run_block(self.blocks[-1], self.before_last_block(images))[:, 1:]  # (B, h * w, D)
        return self.finish(tokens).mT.unflatten(2, self.grid(images))  # (B, E, h, w)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of whole patches."""
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L) -> joint embeddings (B, E), not normalised.

        The text transformer is causal and read at the end-of-text token, so positions after that are not computed:
        a prompt of 12 tokens costs 12 of the 77 positions.
        """
        model = self.model
        if getattr(model, "text_pool_type", None) != "argmax" or model.attn_mask is None:
            return model.encode_text(tokens)
        end = tokens.argmax(-1)  # (B,): the end-of-text token has the largest id
        length = int(end.max()) + 1
        x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]  # (B, length, width)
        x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
        x = model.ln_final(x)[torch.arange(len(x), device=x.device), end]  # (B, width)
        return model.text_projection(x) if isinstance(model.text_projection, nn.Linear) else x @ model.text_projection
