"""Configurations: one file per benchmark (cfg_*.py) or training run."""
