"""Prompts of the published runs, for each class name in place of {}. Others are the defaults of the heads."""

FIFTEEN = (
    *("a photo of a {}.", "a photo of a small {}.", "a photo of a medium {}.", "a photo of a large {}."),
    *("This is a photo of a {}.", "This is a photo of a small {}."),
    *("This is a photo of a medium {}.", "This is a photo of a large {}."),
    *("a {} in the scene.", "a photo of a {} in the scene.", "There is a {} in the scene."),
    *("There is the {} in the scene.", "This is a {} in the scene.", "This is the {} in the scene."),
    "This is one {} in the scene.",
)
SIX = (  # of OTSeg's eight, for Pascal VOC
    *("a photo of a {}.", "a portrait of a {}.", "a part of a {}."),
    *("a segment of a {}.", "a photo of small {}.", "a photo of medium {}."),
)
