"""Open-vocabulary semantic segmentation from the command line.

proxyclip segment INPUT... --classes LIST --out DIR     images, folders and videos
proxyclip app                                           a page in the browser
proxyclip presets                                       the models that can be named

`proxyclip COMMAND --help` lists the options of a command.
"""

import importlib
import sys

from proxyclip.command.model_options import new_parser
from proxyclip.errors import InputError, nearest
from proxyclip.loading import presets
from proxyclip.runtime import main_guard

COMMANDS = ("segment", "app", "presets")


@main_guard
def main() -> None:
    """The entry point of the installed command."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(__doc__.strip())
    elif name == "presets":
        new_parser("Lists the pairs of models that can be named.", "presets").parse_args(arguments)
        presets()
    elif name in COMMANDS:
        importlib.import_module(f"proxyclip.command.{name}").main(arguments)
    else:
        raise InputError(f"{name!r} is not a command; {nearest(name, COMMANDS)}")
