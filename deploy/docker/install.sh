#!/usr/bin/env bash
# install.sh cpu|cuda: sheepfold with $EXTRAS into /opt/sheepfold, and the list of what is there as sbom.cdx.json.
# Runs inside of the build, where /src is the checkout. Wheels come from its dist/wheels where `make wheels` has filled it, and
# then from nowhere else; otherwise from PyPI and $TORCH_INDEX.
set -euo pipefail
device=$1
home=/opt/sheepfold
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT

from=()
if compgen -G '/src/dist/wheels/*.whl' >/dev/null; then
    from=(--no-index --find-links /src/dist/wheels)
elif [[ -n ${TORCH_INDEX:-} ]]; then
    from=(--extra-index-url "$TORCH_INDEX")
fi
get() { # PYTHON REQUIREMENT...
    local python=$1
    shift
    "$python" -m pip --disable-pip-version-check install --quiet --no-cache-dir -c /src/constraints.txt "${from[@]}" "$@"
}

python3 -m venv "$home"
get "$home/bin/python" "/src[$EXTRAS]"
"$home/bin/python" - "$device" <<'CHECK'
import sys, torch
wanted, found = sys.argv[1], "cpu" if torch.version.cuda is None else "cuda"
if found != wanted:
    sys.exit(f"torch {torch.__version__} is a build for {found}, and this is the {wanted} image: give another "
             "--build-arg TORCH_INDEX, or fill dist/wheels anew")
CHECK

python3 -m venv "$tools"
get "$tools/bin/python" "$(cat /src/deploy/docker/sbom-tool.txt)"
"$tools/bin/cyclonedx-py" environment --pyproject /src/pyproject.toml --output-reproducible --of JSON \
    --output-file "$home/sbom.cdx.json" "$home/bin/python"
