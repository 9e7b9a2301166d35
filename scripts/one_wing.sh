#!/usr/bin/env bash
# Delete one wing in a temporary copy: the other's tests must stay green.  scripts/one_wing.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${1:-.venv/bin/python}")
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT

without() { # WING TESTS...: run the tests in a copy that lacks d3pm/WING
    local wing=$1 tests=("${@:2}")
    rm -rf "$copy/d3pm" "$copy/tests" "$copy/configs" "$copy/scripts"
    cp -r d3pm tests configs scripts pyproject.toml README.md "$copy"
    rm -r "$copy/d3pm/$wing"
    echo "without d3pm/$wing:"
    # An editable installation would find the wing in its own folder: say that there is none.
    echo "import sys; sys.modules['d3pm.$wing'] = None" >"$copy/conftest.py"
    (cd "$copy" && PYTHONPATH=$copy "$python" -m pytest -n 2 "${tests[@]}")
}

without gaussian tests/contracts tests/training tests/test_{calibration,cli,cli_levels,cli_tables,continuous_limit,deferred,draws,hypothesis,model,objectives,oracle,regressions,sampling,specs,table_diffusion,table_quality,text_quality}.py tests/discrete tests/transitions d3pm/transitions d3pm/discrete
without discrete tests/gaussian
