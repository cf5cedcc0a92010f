"""One file, one benchmark (cfg_*.py) or one training run."""
