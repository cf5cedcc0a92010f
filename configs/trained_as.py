"""What a training configuration says about a checkpoint: all that a published one does not hold itself."""

from configs.load import HERE, load_config


def trained_as(name: str | None) -> dict:
    """The arguments of `heads.open_checkpoint` from a file in configs/heads/, or a path; {} for None."""
    if name is None:
        return {}
    from configs.training import TrainConfig  # here: most runs need none

    config = load_config(name, TrainConfig, HERE / "heads")
    return {
        "head": config.head,
        "classes": config.data.classes,
        "seen": config.seen,
        "assumed": config.options,
        "training": {"dataset": config.data.name, "setting": config.setting, "unseen": config.unseen},
    }
