#!/usr/bin/env bash
# Evaluates on many GPUs, or with many processes on a CPU:
#     bash dist_test.sh CONFIG [PROCESSES] [options of eval.py]
#     bash dist_test.sh cfg_voc20.py 8 --preset vitl14-dino
# On several machines, run this on each of them, with WORKDIR on a shared disk:
#     NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 PORT=29500 bash dist_test.sh cfg_voc20.py 8      on the first machine
#     NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 PORT=29500 bash dist_test.sh cfg_voc20.py 8      on the second machine
# dist_train.sh is this file for train.py.
set -euo pipefail
program=${program:-eval.py}

fail() {
    echo "error: $1" >&2
    exit 2
}

# check NAME VALUE LOWEST HIGHEST
check() {
    if ! [[ $2 =~ ^0*[0-9]{1,9}$ ]] || ((10#$2 < $3 || 10#$2 > $4)); then
        fail "$1 must be a whole number from $3 to $4, not '$2'"
    fi
}

if [ $# -lt 1 ] || [[ $1 == -* ]]; then
    fail "name a configuration: bash $(basename "$0") CONFIG [PROCESSES] [options of $program]"
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}
config=$1
shift
if [ $# -gt 0 ] && [[ $1 != --* ]]; then
    processes=$1
    shift
else
    processes=$("$python" -c "import torch; print(max(1, torch.cuda.device_count()))")
fi
nodes=${NNODES:-1} node=${NODE_RANK:-0} port=${PORT:-29500}
check PROCESSES "$processes" 1 256
check NNODES "$nodes" 1 9999
check NODE_RANK "$node" 0 $((10#$nodes - 1))
check PORT "$port" 1 65535
processes=$((10#$processes))
address=${MASTER_ADDR:-127.0.0.1}
"$python" -c "import socket, sys; socket.getaddrinfo(sys.argv[1], None)" "$address" 2>/dev/null ||
    fail "MASTER_ADDR: no host '$address' found"

# Report errors in the input once, not once per process.
"$python" "$here/$program" --config "$config" "$@" --check

PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m proxyclip.evaluation.launch \
    --nnodes="$((10#$nodes))" --node_rank="$((10#$node))" --nproc_per_node="$processes" \
    --master_addr="$address" --master_port="$((10#$port))" \
    "$here/$program" --config "$config" "$@"
