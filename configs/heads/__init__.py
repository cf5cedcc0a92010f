"""Training runs, one file a head: its table `runs` has the configuration of each by its name, HEAD_DATASET_SETTING.

A table `published` says how a head that was trained on one dataset was evaluated on others in its published runs.
"""
