"""Readers for the benchmark datasets; not the PyPI package of the same name."""
