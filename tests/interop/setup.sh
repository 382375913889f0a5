#!/bin/sh
# Makes target/interop-venv with the pinned packages. PYTHON chooses the interpreter (3.11 is what was tried).
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
venv="$root/target/interop-venv"
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --requirement "$root/tests/interop/requirements.txt"
echo "$venv/bin/python"
