# Sourced by the scripts: ROOT, and `run_lab MODULE …`, which becomes a module of the lab in the checkout's .venv.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

run_lab() {
    cd "$ROOT"
    PYTHONPATH=$ROOT exec "$ROOT/.venv/bin/python" -m "$@"
}
