"""Evaluation of a model on a benchmark: prefetching, counting, resuming, and distributed runs."""
