#!/usr/bin/env bash
# Trains on many GPUs, or with many processes on a CPU:
#     bash dist_train.sh CONFIG [PROCESSES] [options of train.py]
#     bash dist_train.sh zegclip_voc20_inductive 4 --workdir runs/zeg_voc
# Several machines: see dist_test.sh.
program=train.py
. "$(dirname "${BASH_SOURCE[0]}")/dist_test.sh"
