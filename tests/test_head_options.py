"""Options of heads that are out of range are one sentence."""

import pytest
import tiny_head

from proxyclip.errors import InputError


@pytest.mark.parametrize("name", tiny_head.HEADS)
@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"image_size": 0}, "image_size is 0; it must be at least 1"),
        ({"image_size": 7}, "image_size 7 is smaller than one patch of 8 pixels"),
        ({"short_side": -1}, "short_side is -1"),
        ({"crop": -1}, "crop -1"),
        ({"stride": 0}, "stride 0"),
        ({"stride": 33}, "stride 33 above crop 32"),
        ({"prompts": 0}, "prompts is 0"),
        ({"prompt_blocks": 4}, "prompt_blocks is 4"),
        ({"decoder_layers": 0}, "decoder_layers is 0"),
        ({"decoder_heads": 0}, "decoder_heads is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"seen_penalty": 1.5}, "seen_penalty is 1.5"),
        ({"seen_penalty": -0.1}, "seen_penalty is -0.1"),
        ({"templates": ()}, "templates is empty"),
        ({"templates": ("a photo",)}, "has no {} for the name"),
    ],
)
def test_options_out_of_range(name, options, sentence):
    with pytest.raises(InputError, match=sentence):
        tiny_head.head(name, **options)
