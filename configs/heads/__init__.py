"""Training runs: HEAD_DATASET_SETTING.py sets `config`; files that start with an underscore are their shared parts."""
