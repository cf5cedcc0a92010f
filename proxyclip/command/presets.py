"""Lists the pairs of models that can be named.

proxyclip presets
"""

from proxyclip.command.model_options import new_parser
from proxyclip.loading import presets


def main(arguments: list[str] | None = None) -> None:
    new_parser(__doc__, "presets").parse_args(arguments)
    presets()
