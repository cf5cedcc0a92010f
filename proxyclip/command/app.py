"""A page in the browser that segments images by class names.

proxyclip app                                  http://127.0.0.1:7860, the embedded models; works offline
proxyclip app --preset vitb16-dino             published models, for photographs, first in the list
proxyclip app --host 0.0.0.0 --port 80         for everyone who reaches this machine
"""

import importlib.util
from collections.abc import Callable

from proxyclip.command.model_options import add_model_options, chosen_model
from proxyclip.command.parser import new_parser
from proxyclip.errors import InputError
from proxyclip.runtime import main_guard

HOST, PORT = "127.0.0.1", 7860


@main_guard
def main(arguments: list[str] | None = None, trained: Callable | None = None) -> None:
    """trained: loads trained heads, see `ModelChoice`."""
    parser = new_parser(__doc__, None if trained else "app")
    add_model_options(parser, heads=trained is not None)
    add = parser.add_argument_group("page").add_argument
    add("--host", default=HOST, help=f"address to listen at (default: {HOST}, this machine only)")
    add("--port", type=int, default=PORT, help=f"port to listen at (default: {PORT}; 0: any free one)")
    add("--max-pixels", type=int, default=16_000_000, metavar="N", help="of an image (default: 16000000)")
    add("--max-upload", type=int, default=32, metavar="MB", help="of an image file (default: 32)")
    add("--max-names", type=int, default=200, metavar="N", help="in a list, synonyms included (default: 200)")
    add("--max-memory", type=int, default=1000, metavar="MB", help="for images and results held (default: 1000)")
    options = parser.parse_args(arguments)
    if not 0 <= options.port <= 65535:
        raise InputError(f"--port is {options.port}; choose a number from 0 to 65535")
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the page needs Gradio: pip install 'proxyclip[app]', or pip install '.[app]' in a checkout")

    from proxyclip.app.limits import Limits  # from here on: wrong options are found without Gradio

    limits = Limits(
        **{name: getattr(options, name) for name in ("max_pixels", "max_upload", "max_names", "max_memory")}
    )
    choice = chosen_model(options, trained)

    from proxyclip.app.desk import Desk
    from proxyclip.app.models import Models
    from proxyclip.app.server import serve

    serve(Desk(Models(choice), limits), options.host, options.port)
