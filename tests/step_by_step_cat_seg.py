"""CAT-Seg the slow and obvious way, from weights under the names of the published checkpoints.

All classes go through every layer as one batch, with the guidance of an image repeated for each of its classes, window
masks and attention matrices written out, and padding that really takes part. Dropout has no place here. The head of
`heads/cat_seg.py` is held against it in the tests.

Shapes: B images, T classes, P prompts per class, E joint embedding width, C hidden width, D width of CLIP's image
tower, G width of a guidance, h × w patches, N = h * w. `state`: published name -> tensor.
"""

import math

import torch
import torch.nn.functional as F

CLIP, AGGREGATOR = "sem_seg_head.predictor.clip_model", "sem_seg_head.predictor.transformer"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NOT_AGGREGATED = -100.0  # logits of the classes beyond pad_len


# The whole way


def logits(state, images, text, *, clip, aggregator):
    """(B, 3, c, c) in [0, 1] at CLIP's resolution and (T, P, E) -> (B, T, 4 * h, 4 * w).

    clip, aggregator: further arguments of `encode_image` and of `aggregate`.
    """
    features, blocks = encode_image(state, images, **clip)
    side = math.isqrt(features.shape[1] - 1)
    features = features[:, 1:].mT.unflatten(2, (side, side))  # (B, E, h, w)
    return aggregate(state, features, [features, *guidance_maps(state, blocks)], text, **aggregator)


def whole_image(state, image, text, size, *, side, clip, aggregator):
    """(3, H, W) in [0, 1] -> probabilities (T, *size), of the image as a whole, stretched to side × side.

    The strip that the image is padded with to multiples of 32 stays in the result, which is why the result is a little
    narrower than the image where it needs padding.
    """
    height, width = image.shape[1:]
    padded = F.pad(normalised(image[None]), (0, -width % 32, 0, -height % 32))
    found = logits(state, resized(padded, (side, side)), text, clip=clip, aggregator=aggregator)
    return resized(torch.sigmoid(found), size)[0]


def windows_and_global_view(
    state, image, text, size, *, side, clip, aggregator, square=640, crop=384, stride=256, at_a_time=1
):
    """(3, H, W) in [0, 1] -> probabilities (T, *size): the mean of those of the windows and of those of the whole
    image, which are taken at crop × crop pixels, too. at_a_time: views in a batch."""
    stretched = resized(image[None], (square, square))
    starts = range(0, square - crop + 1, stride)
    places = [(slice(top, top + crop), slice(left, left + crop)) for top in starts for left in starts]
    windows = [stretched[..., rows, columns] for rows, columns in places]
    views = torch.cat([*windows, resized(image[None], (crop, crop))])  # (windows + 1, 3, crop, crop)
    batches = resized(normalised(views), (side, side)).split(at_a_time)
    found = torch.cat([logits(state, batch, text, clip=clip, aggregator=aggregator) for batch in batches])
    found = torch.sigmoid(resized(found, (crop, crop)))  # (windows + 1, T, crop, crop)
    total = torch.zeros(found.shape[1], square, square, device=image.device)
    count = torch.zeros(square, square, device=image.device)
    for (rows, columns), window in zip(places, found[:-1], strict=True):
        total[:, rows, columns] += window
        count[rows, columns] += 1
    whole = resized(found[-1:], (square, square))
    return resized((total / count + whole) / 2, size)[0]


def loss(found, labels):
    """Logits (B, T, h, w) and labels (B, H, W), which are negative or above T where there is none -> mean binary
    cross-entropy over all pixels and classes; pixels without a label are negative for every class."""
    found = resized(found, labels.shape[1:])  # (B, T, H, W)
    target = torch.stack([(labels == index).float() for index in range(found.shape[1])], dim=1)  # (B, T, H, W)
    return F.binary_cross_entropy_with_logits(found, target)


def normalised(images):
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std


def resized(maps, size):
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


# CLIP


def encode_image(state, images, *, heads=12, blocks=(3, 7), dense=True):
    """(B, 3, H, W), normalised -> (B, 1 + N, E), and the patches as they leave each of `blocks`, (B, D, h, w).

    dense: of the last block only values are taken.
    """
    at = f"{CLIP}.visual"
    patch = state[f"{at}.conv1.weight"]
    pixels = F.conv2d(images, patch, stride=patch.shape[-1])  # (B, D, h, w)
    grid = pixels.shape[2:]
    token = state[f"{at}.class_embedding"].expand(len(images), 1, -1)
    x = torch.cat([token, pixels.flatten(2).mT], dim=1) + position_table(state, grid)  # (B, 1 + N, D)
    x = norm(state, f"{at}.ln_pre", x)
    depth, kept = depth_of(state, f"{at}.transformer.resblocks."), []
    prompts = state.get(f"{at}.transformer.prompt_tokens", ())
    for index in range(depth):
        block = f"{at}.transformer.resblocks.{index}"
        if index < len(prompts):
            own = prompts[index].expand(len(images), -1, -1)
            x = torch.cat([x[:, :1], own, x[:, 1:]], dim=1)
        x = value_block(state, block, x) if dense and index == depth - 1 else clip_block(state, block, x, heads)
        if index < len(prompts):
            x = torch.cat([x[:, :1], x[:, 1 + prompts.shape[1] :]], dim=1)
        if index in blocks:
            kept.append(x[:, 1:].mT.unflatten(2, grid))
    return norm(state, f"{at}.ln_post", x) @ state[f"{at}.proj"], kept


def position_table(state, grid):
    """(1 + N, D), stretched to this grid of patches."""
    table = state[f"{CLIP}.visual.positional_embedding"]  # (1 + M * M, D)
    side = math.isqrt(len(table) - 1)
    if (side, side) == tuple(grid):
        return table
    patches = table[1:].T.unflatten(1, (side, side))[None]
    patches = F.interpolate(patches, tuple(grid), mode="bicubic", align_corners=False)
    return torch.cat([table[:1], patches[0].flatten(1).T])


def clip_block(state, at, x, heads, mask=None):
    x = x + clip_attention(state, at, norm(state, f"{at}.ln_1", x), heads, mask)
    return x + clip_network(state, at, x)


def clip_attention(state, at, x, heads, mask):
    """(B, L, D) -> (B, L, D); mask: (L, L), added to the scores."""
    biases = state[f"{at}.attn.in_proj_bias"].chunk(3)
    query, key, value = (
        F.linear(x, state[f"{at}.attn.{name}_proj_weight"], bias).unflatten(2, (heads, -1)).transpose(1, 2)
        for name, bias in zip("qkv", biases, strict=True)
    )  # (B, heads, L, d)
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)  # (B, heads, L, L)
    return linear(state, f"{at}.attn.out_proj", (weights @ value).transpose(1, 2).flatten(2))


def value_block(state, at, x):
    """The last block with the value of each token for its attention, and the class token as the residual of all."""
    bias = state[f"{at}.attn.in_proj_bias"].chunk(3)[2]
    value = F.linear(norm(state, f"{at}.ln_1", x), state[f"{at}.attn.v_proj_weight"], bias)
    x = x[:, :1] + linear(state, f"{at}.attn.out_proj", value)
    return x + clip_network(state, at, x)


def clip_network(state, at, x):
    x = linear(state, f"{at}.mlp.c_fc", norm(state, f"{at}.ln_2", x))
    return linear(state, f"{at}.mlp.c_proj", x * torch.sigmoid(1.702 * x))


def encode_text(state, tokens, *, heads=8):
    """(T, L) tokens -> unit vectors (T, E)."""
    x = state[f"{CLIP}.token_embedding.weight"][tokens] + state[f"{CLIP}.positional_embedding"]  # (T, L, D)
    length = tokens.shape[1]
    mask = torch.full((length, length), float("-inf"), device=x.device).triu(1)
    for index in range(depth_of(state, f"{CLIP}.transformer.resblocks.")):
        x = clip_block(state, f"{CLIP}.transformer.resblocks.{index}", x, heads, mask)
    x = norm(state, f"{CLIP}.ln_final", x)
    last = x[torch.arange(len(x)), tokens.argmax(dim=1)]  # the end of text has the largest number
    return unit(last @ state[f"{CLIP}.text_projection"])


def encode_classes(state, tokenize, names, templates, *, heads=8, synonyms="first"):
    """Unit vectors (T, P, E), a prompt for each template. synonyms: of a name such as "sea, ocean", the "first" or the
    "mean"."""
    rows = []
    for name in names:
        own = name.split(", ") if synonyms == "mean" else name.split(", ")[:1]
        prompts = [tokenize([template.format(synonym) for synonym in own]) for template in templates]
        rows.append(torch.stack([unit(encode_text(state, tokens, heads=heads).mean(0)) for tokens in prompts]))
    return torch.stack(rows)


def guidance_maps(state, blocks):
    """The outputs of two blocks, (B, D, h, w) each -> (B, G, 2 * h, 2 * w) and (B, G', 4 * h, 4 * w)."""
    return [
        F.conv_transpose2d(x, state[f"upsample{number}.weight"], state[f"upsample{number}.bias"], stride=2 * number)
        for number, x in enumerate(blocks, start=1)
    ]


# The aggregator


def aggregate(
    state, features, guidance, text, *, heads=4, window=12, pooling=2, attention="linear", pad_len=256, found=None
):
    """Dense CLIP features (B, E, h, w), guidance, text (T, P, E) or (B, T, P, E) -> (B, T, 4 * h, 4 * w).

    guidance: of the attention (B, E, h, w), the same features again, and of the decoder, (B, G, 2 * h, 2 * w) and
    (B, G', 4 * h, 4 * w). attention: of the classes, "linear" or "full". found: a dict for what is computed on the way.
    """
    found = {} if found is None else found
    text = text.expand(len(features), -1, -1, -1) if text.dim() == 3 else text  # (B, T, P, E)
    cost = torch.einsum("btpe,behw->btphw", unit(text), F.normalize(features, dim=1))  # (B, T, P, h, w)
    found["cost"] = cost
    if 0 < pad_len < text.shape[1]:
        return best_classes(state, features, guidance, text, cost, heads, window, pooling, attention, pad_len)
    x = each(cost, lambda maps: conv(state, f"{AGGREGATOR}.conv1", maps))  # (B, T, C, h, w)
    found["embedded"] = x
    appearance = F.relu(conv(state, f"{AGGREGATOR}.guidance_projection.0", guidance[0]))  # (B, G, h, w)
    words = F.relu(linear(state, f"{AGGREGATOR}.text_guidance_projection.0", unit(text.mean(2))))  # (B, T, G)
    found |= {"appearance": appearance, "words": words}
    for index in range(depth_of(state, f"{AGGREGATOR}.layers.")):
        layer = f"{AGGREGATOR}.layers.{index}"
        x = spatial_layer(state, f"{layer}.swin_block", x, appearance, heads, window)
        found[f"spatial {index}"] = x
        x = class_layer(state, f"{layer}.attention", x, words, heads, pooling, attention, pad_len)
        found[f"classes {index}"] = x
    for index, maps in enumerate(guidance[1:]):
        maps = F.relu(conv(state, f"{AGGREGATOR}.decoder_guidance_projection.{index}.0", maps))
        x = upsample(state, f"{AGGREGATOR}.decoder{index + 1}", x, maps)
        found[f"upsampled {index}"] = x
    return each(x, lambda maps: conv(state, f"{AGGREGATOR}.head", maps))[:, :, 0]


def best_classes(state, features, guidance, text, cost, heads, window, pooling, attention, pad_len):
    """Of each image only the `pad_len` classes with the highest cosine of all pixels and prompts are aggregated,
    with unit vectors for text (without a choice, the length of a prompt counts in the mean of its class)."""
    best = cost.amax(dim=(2, 3, 4)).topk(pad_len, dim=1).indices  # (B, pad_len)
    full = None
    for index, kept in enumerate(best):
        own = [maps[index : index + 1] for maps in guidance]
        some = aggregate(
            state, features[index : index + 1], own, unit(text[index, kept]),
            heads=heads, window=window, pooling=pooling, attention=attention, pad_len=pad_len,
        )[0]  # fmt: skip
        if full is None:
            full = some.new_full((*text.shape[:2], *some.shape[1:]), NOT_AGGREGATED)  # (B, T, H, W)
        full[index, kept] = some
    return full


def spatial_layer(state, at, x, appearance, heads, window):
    """(B, T, C, h, w), (B, G, h, w) -> (B, T, C, h, w): attention in windows, then in shifted windows."""
    classes, (height, width) = x.shape[1], x.shape[3:]
    guide = appearance[:, None].expand(-1, classes, -1, -1, -1).flatten(0, 1).permute(0, 2, 3, 1)  # (B * T, h, w, G)
    guide = norm(state, f"{at}.guidance_norm", guide)
    y = x.flatten(0, 1).permute(0, 2, 3, 1)  # (B * T, h, w, C)
    window = min(window, height, width)
    shift = window // 2 if min(height, width) > window else 0
    for number, by in ((1, 0), (2, shift)):
        y = window_block(state, f"{at}.block_{number}", y, guide, heads, window, by)
    return y.permute(0, 3, 1, 2).unflatten(0, (-1, classes))


def window_block(state, at, x, guide, heads, window, shift):
    """(B', h, w, C), (B', h, w, G) -> (B', h, w, C)."""
    size = x.shape[1:3]
    own = norm(state, f"{at}.norm1", x)
    both = torch.cat([own, guide], dim=-1)  # (B', h, w, C + G)
    own, both = (cut(torch.roll(part, (-shift, -shift), dims=(1, 2)), window) for part in (own, both))
    query, key = (linear(state, f"{at}.attn.{name}", both) for name in "qk")
    value = linear(state, f"{at}.attn.v", own)
    query, key, value = (
        part.unflatten(-1, (heads, -1)).transpose(-2, -3) for part in (query, key, value)
    )  # (B', windows, heads, window * window, d)
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    if shift:
        scores = scores + window_mask(size, window, shift, x.device)[:, None]
    mixed = (torch.softmax(scores, dim=-1) @ value).transpose(-2, -3).flatten(-2)  # (B', windows, window * window, C)
    mixed = torch.roll(joined(linear(state, f"{at}.attn.proj", mixed), size, window), (shift, shift), dims=(1, 2))
    x = x + mixed
    y = F.gelu(linear(state, f"{at}.mlp.fc1", norm(state, f"{at}.norm2", x)))
    return x + linear(state, f"{at}.mlp.fc2", y)


def window_mask(size, window, shift, device=None):
    """(windows, window * window, window * window): -100 between pixels that are neighbours by the shift alone."""
    region = torch.zeros(1, *size, 1, device=device)
    edges = [(slice(0, -window), slice(-window, -shift), slice(-shift, None))] * 2
    for number, (rows, columns) in enumerate((rows, columns) for rows in edges[0] for columns in edges[1]):
        region[:, rows, columns] = number
    region = cut(region, window)[0, :, :, 0]  # (windows, window * window)
    return -100.0 * (region[:, :, None] != region[:, None]).float()


def cut(x, window):
    """(B', h, w, C) -> (B', windows, window * window, C)."""
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # (B', h / window, window, w / window, window, C)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def joined(x, size, window):
    """(B', windows, window * window, C) -> (B', h, w, C)."""
    height, width = size
    x = x.unflatten(2, (window, window)).unflatten(1, (height // window, width // window))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def class_layer(state, at, x, words, heads, pooling, attention, pad_len):
    """(B, T, C, h, w), (B, T, G) -> (B, T, C, h, w): each position of the pooled map attends to its classes."""
    count, classes = x.shape[:2]
    pooled = each(x, lambda maps: F.avg_pool2d(maps, pooling))  # (B, T, C, h', w')
    height, width = pooled.shape[3:]
    y = pooled.permute(0, 3, 4, 1, 2).flatten(0, 2)  # (B * N', T, C)
    guide = words[:, None].expand(-1, height * width, -1, -1).flatten(0, 1)  # (B * N', T, G)
    if classes < pad_len:
        more = len(y), pad_len - classes, -1
        y = torch.cat([y, state[f"{at}.padding_tokens"].expand(more)], dim=1)
        guide = torch.cat([guide, state[f"{at}.padding_guidance"].expand(more)], dim=1)
    own = norm(state, f"{at}.norm1", y)
    both = torch.cat([own, guide], dim=-1)
    query, key = (linear(state, f"{at}.attention.{name}", both) for name in "qk")
    value = linear(state, f"{at}.attention.v", own)
    query, key, value = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    mixed = {"linear": linear_attention, "full": full_attention}[attention](query, key, value)
    y = y + mixed.transpose(1, 2).flatten(2)
    y = y + linear(state, f"{at}.MLP.2", F.relu(linear(state, f"{at}.MLP.0", norm(state, f"{at}.norm2", y))))
    y = y[:, :classes].unflatten(0, (count, height, width)).permute(0, 3, 4, 1, 2)  # (B, T, C, h', w')
    size = x.shape[3:]
    return x + each(y, lambda maps: F.interpolate(maps, size, mode="bilinear", align_corners=True))


def full_attention(query, key, value):
    return torch.softmax(query @ key.mT / math.sqrt(query.shape[-1]), dim=-1) @ value


def linear_attention(query, key, value):
    """Products of elu + 1 instead of the exponential function: keys and values can be summed up first."""
    query, key = F.elu(query) + 1, F.elu(key) + 1
    return (query @ (key.mT @ value)) / (query @ key.sum(-2, keepdim=True).mT + 1e-6)


def upsample(state, at, x, maps):
    """(B, T, C, h, w) and guidance (B, G, 2 * h, 2 * w) -> (B, T, C', 2 * h, 2 * w)."""
    classes = x.shape[1]
    y = F.conv_transpose2d(x.flatten(0, 1), state[f"{at}.up.weight"], state[f"{at}.up.bias"], stride=2)
    y = torch.cat([y, maps[:, None].expand(-1, classes, -1, -1, -1).flatten(0, 1)], dim=1)  # (B * T, C'' + G, 2h, 2w)
    for place in (0, 3):
        y = conv(state, f"{at}.conv.double_conv.{place}", y)
        weight, bias = (state[f"{at}.conv.double_conv.{place + 1}.{kind}"] for kind in ("weight", "bias"))
        y = F.relu(F.group_norm(y, len(weight) // 16, weight, bias))
    return y.unflatten(0, (-1, classes))


# Layers by name


def linear(state, at, x):
    return F.linear(x, state[f"{at}.weight"], state.get(f"{at}.bias"))


def norm(state, at, x):
    weight = state[f"{at}.weight"]
    return F.layer_norm(x, weight.shape, weight, state[f"{at}.bias"])


def conv(state, at, x):
    """With zeros around the map, so that its size stays."""
    weight = state[f"{at}.weight"]
    return F.conv2d(x, weight, state.get(f"{at}.bias"), padding=weight.shape[-1] // 2)


def each(x, function):
    """Applies a function of (B', C, h, w) to the maps of all images and classes, (B, T, C, h, w)."""
    return function(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def depth_of(state, prefix):
    return len({name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix)})


def unit(x):
    return F.normalize(x, dim=-1)
