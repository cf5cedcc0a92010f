"""The time of each training-free method relative to MaskCLIP, for `benchmarks/speed.py --method`."""

import statistics
import time

import torch

import proxyclip
from benchmarks.cpu import processor
from proxyclip.methods import find_method
from proxyclip.vocabulary import Vocabulary

REFERENCE, SIDE, WINDOWS, CLASSES = "maskclip", 336, 2, 21


def compare_methods(methods: list[str], rounds: int) -> None:
    """Prints seconds of one thread's processor time for two windows of 336 × 336 pixels with a ViT-B/16, and the ratio
    to MaskCLIP in the same round, the median over rounds."""
    torch.set_num_threads(1)
    print(processor())
    image = torch.rand(3, SIDE, SIDE + 112, generator=torch.Generator().manual_seed(0))  # two windows
    vocabulary = Vocabulary.parse([f"name {index}" for index in range(CLASSES)])
    models, seconds = {}, {}
    for method in dict.fromkeys([REFERENCE, *methods]):
        vfm = "dino-vitb8:random" if find_method(method).NEEDS_VFM else None
        models[method] = proxyclip.load(clip="ViT-B-16:random", vfm=vfm, method=method, templates=("a {}.",))
        seconds[method] = []
    with torch.inference_mode():
        texts = {method: model.encode_classes(vocabulary) for method, model in models.items()}
        for _ in range(rounds + 1):
            for method, model in models.items():
                begun = time.thread_time()
                model.image_scores(image, texts[method], WINDOWS)
                seconds[method].append(time.thread_time() - begun)
    for method, taken in seconds.items():
        pairs = zip(taken[1:], seconds[REFERENCE][1:], strict=True)  # the first round also allocates
        ratio = statistics.median(own / reference for own, reference in pairs)
        print(f"{models[method].method:<11}{statistics.median(taken[1:]):7.2f} s   {ratio:.2f}x MaskCLIP")
