"""`score_images` for tests that look at the scores alone."""

from proxyclip import windows as engine


def score_images(window_scores, images, windows, padding_colour, batches, window_size=None):
    """The scores of each of some images (3, H, W), which may be an iterator."""
    stream = engine.score_images(
        window_scores,
        ((None, image) for image in images),
        windows=windows,
        padding_colour=padding_colour,
        batches=batches,
        window_size=window_size,
    )
    return (scores for _, _, scores in stream)
