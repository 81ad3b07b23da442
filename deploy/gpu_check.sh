#!/bin/sh
# Check a GPU machine: driver, runtime, the same faces as on the CPU, then speed; prints one table.
#
#     deploy/gpu_check.sh [--tensorrt] [--size 1280x720] [--frames 128] [--rounds 5]
#
# Run it in a checkout whose environment has mien[gpu] and mien[dev]; PYTHON names another python.
# --tensorrt adds TensorRT, whose first run builds engines for minutes. Ends with 0 if all is well,
# 1 if something is missing or differs, and says what.
set -eu

usage() { sed -n 's/^# \{0,1\}//; 2,8p' "$0"; }
fail() { echo "gpu_check: $1" >&2; exit 1; }

providers="cuda"
case "${1:-}" in
    -h | --help) usage; exit 0 ;;
    --tensorrt) providers="cuda tensorrt"; shift ;;
esac
python="${PYTHON:-python3}"
cd "$(dirname "$0")/.."

command -v nvidia-smi >/dev/null || fail "this machine has no GPU to check: there is no NVIDIA driver (nvidia-smi is missing)"
gpus="$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1)" ||
    fail "this machine has no GPU to check: nvidia-smi says: $(echo "$gpus" | head -n 1)"
[ -n "$gpus" ] || fail "this machine has no GPU to check: nvidia-smi lists none"
echo "GPU: $gpus"

"$python" -c "import worker, pytest" 2>/dev/null ||
    fail "$python has no mien with its tests' needs: pip install -e '.[gpu,dev]', or set PYTHON"
"$python" -c "import onnxruntime; print('onnxruntime', onnxruntime.__version__)"
for provider in $providers; do
    "$python" - "$provider" <<'EOF' || exit 1
import sys
from pathlib import Path
import worker.detect
from worker.errors import MienError
from worker.inference import open_network
try:
    open_network(Path(worker.detect.__file__).parent / "pnet.onnx", provider=sys.argv[1])
except MienError as error:
    sys.exit(f"gpu_check: {error}")
print(f"provider {sys.argv[1]} works")
EOF
done

for provider in $providers; do
    echo "the same faces, crops and answers on $provider as on the CPU:"
    MIEN_TEST_PROVIDER="$provider" "$python" -m pytest -q tests/worker/test_binding.py \
        tests/worker/test_device.py tests/worker/test_analysis_on_device.py \
        tests/worker/detect/test_ongraph.py tests/worker/emotion/test_ongraph.py ||
        fail "what is found on $provider differs from the CPU's, see above"
done

# shellcheck disable=SC2086  # a list of words
exec "$python" -m tests.gpu --providers cpu $providers "$@"
