#!/usr/bin/env bash
# build.sh cpu|cuda [OPTION...]: the image sheepfold:VERSION or sheepfold:VERSION-cuda, by docker where its daemon answers, else by
# buildah, which is given the options; and its SBOM into dist.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$1
shift
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
revision=$(git rev-parse HEAD 2>/dev/null || true)
image=sheepfold:$version
[[ $target == cpu ]] || image+=-$target

given=(--target "$target" --tag "$image" --file deploy/docker/Dockerfile
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision" "$@" .)
if docker info >/dev/null 2>&1; then
    DOCKER_BUILDKIT=1 docker build "${given[@]}"
    show=(docker run --rm --entrypoint cat "$image")
elif command -v buildah >/dev/null; then
    buildah build --format docker "${given[@]}"
    container=$(buildah from --pull-never "$image")
    trap 'buildah rm "$container" >/dev/null' EXIT
    show=(buildah run "$container" -- cat)
else
    echo "neither a docker daemon nor buildah is here: apt-get install -y buildah" >&2
    exit 2
fi
mkdir -p dist
"${show[@]}" /opt/sheepfold/sbom.cdx.json >"dist/${image/:/-}.cdx.json"
echo "$image; what is in it: dist/${image/:/-}.cdx.json"
