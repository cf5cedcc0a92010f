"""`proxyclip app` for a checkout: trained heads can be loaded too, by --checkpoint. See `--help`."""

import heads
from configs.load import trained_as
from proxyclip.command import app


def trained(checkpoint, train_config, **options):
    """The plan of a trained head, without loading its weights."""
    return heads.plan(checkpoint, **trained_as(train_config), **options)


if __name__ == "__main__":
    app.main(trained=trained)
