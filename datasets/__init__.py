"""proxyclip's benchmark readers - not the PyPI package of the same name."""
