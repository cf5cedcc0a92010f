"""What ZegCLIP, OTSeg and Cascade-CLIP share: learned prompts in a frozen CLIP."""

from heads.head import TrainableHead
from heads.options import PromptedOptions
from heads.prompted_encoder import MEAN, PromptedEncoder
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.layers import Normalise


class PromptedHead(TrainableHead):
    """A head whose images are encoded by a `PromptedEncoder`; none of CLIP's own weights is trained."""

    def __init__(
        self,
        clip: DenseCLIP,
        options: PromptedOptions,
        classes: tuple[str, ...],
        seen: tuple[str, ...],
        known_words: tuple[str, ...] | None = None,
    ):
        super().__init__(clip, options, classes, seen, known_words, padding_colour=MEAN)
        if options.crop != options.image_size:
            self.window_size = (options.image_size,) * 2
        encoder = options.prompts, options.prompt_blocks, options.dropout, options.image_size
        self.encoder = PromptedEncoder(clip.visual, *encoder)

    @property
    def normalise(self) -> Normalise:
        return self.encoder.normalise

    @property
    def checkpointing(self) -> bool:
        return self.encoder.checkpointing

    @checkpointing.setter
    def checkpointing(self, active: bool) -> None:
        self.encoder.checkpointing = active
