"""Converters from raw downloads to the files that the benchmarks read, one per file."""
