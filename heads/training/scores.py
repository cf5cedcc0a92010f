"""The scores of a head while it is trained, by the shared evaluation loop."""

from collections.abc import Callable, Sequence

from heads.head import TrainableHead
from proxyclip.evaluation.counting import Settings
from proxyclip.evaluation.distributed import Ranks
from proxyclip.evaluation.evaluate import evaluate
from proxyclip.evaluation.metrics import ConfusionMatrix
from proxyclip.evaluation.model_run import ModelRun
from proxyclip.vocabulary import Vocabulary

Scores = dict[str, float]


def scores_on(
    samples: Sequence, head: TrainableHead, unseen: Sequence[str], workers: int, batch_windows: int | None, ranks: Ranks
) -> Callable[[], Scores | None]:
    """A function that returns the scores of the head as it is, in percent: aAcc and mIoU, or with unseen classes mIoU,
    pAcc (the same as aAcc), mIoU(S), mIoU(U) and hIoU; None on all ranks but the first.

    samples: see `evaluate`; their classes are those of the head. workers, batch_windows: how much runs at a time.
    """
    left_out = [head.classes.index(name) for name in unseen]
    predict = ModelRun(head, Vocabulary.parse(head.classes), 0.0, batch_windows)

    def scores() -> Scores | None:
        given = predict, samples, len(head.classes), head.resize, Settings(workers)
        counts = evaluate(*given, ranks=ranks, stage=predict.stage)
        if counts is None:
            return None
        confusion = ConfusionMatrix(len(head.classes), counts.matrix)
        found = confusion.scores()
        if not left_out:
            return {"aAcc": found["aAcc"], "mIoU": found["mIoU"]}
        return {"mIoU": found["mIoU"], **confusion.seen_unseen(left_out)}

    return scores
