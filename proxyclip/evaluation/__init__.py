"""A model meets a benchmark: reading ahead, counting, resuming, many processes."""
