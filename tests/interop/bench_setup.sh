#!/bin/sh
# Makes target/bench-venv and target/bench-paddle-venv, the peers of `cargo xtask bench`, with the pinned packages. Two,
# because Paddle 2.6 wants an older numpy. PYTHON chooses the interpreter (3.11 is what was tried).
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
for name in bench bench_paddle; do
    venv="$root/target/$(echo $name | tr _ -)-venv"
    [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet --requirement "$root/tests/interop/${name}_requirements.txt"
    echo "$venv/bin/python"
done
