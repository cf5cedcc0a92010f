#!/usr/bin/env bash
# Evaluates on many GPUs, or with many processes on a CPU:
#     bash dist_test.sh CONFIG [PROCESSES] [options of eval.py]
#     bash dist_test.sh cfg_voc20.py 8 --model vitl14-dino
# On several machines, the same on each of them, with WORKDIR on a disk that they share:
#     NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 PORT=29500 bash dist_test.sh cfg_voc20.py 8      on the first
#     NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 PORT=29500 bash dist_test.sh cfg_voc20.py 8      on the second
set -euo pipefail

if [ $# -lt 1 ] || [[ $1 == -* ]]; then
    echo "error: name a configuration: bash dist_test.sh CONFIG [PROCESSES] [options of eval.py]" >&2
    exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}
config=$1
shift
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    processes=$((10#$1))
    shift
    if [ "$processes" -lt 1 ]; then
        echo "error: PROCESSES must be at least 1, not $processes" >&2
        exit 2
    fi
else
    processes=$("$python" -c "import torch; print(max(1, torch.cuda.device_count()))")
fi

# What can be found wrong beforehand is said once, not by every process.
"$python" "$here/eval.py" --config "$config" "$@" --check

# torchrun would give each process one thread; the cores are shared out instead.
cores=$("$python" -c "import os; print(os.cpu_count() or 1)")
threads=$((cores / processes))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}

PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m proxyclip.evaluation.launch \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$processes" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$here/eval.py" --config "$config" "$@"
