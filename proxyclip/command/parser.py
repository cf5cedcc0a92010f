"""The parser that every script and command starts from."""

import argparse


def new_parser(doc: str, command: str | None = None) -> argparse.ArgumentParser:
    """A parser whose help text is the docstring, line by line. command: a command of `proxyclip`."""
    formatter = argparse.RawDescriptionHelpFormatter
    name = command and f"proxyclip {command}"
    return argparse.ArgumentParser(prog=name, description=doc, formatter_class=formatter, allow_abbrev=command is None)
