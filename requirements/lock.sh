#!/bin/sh
# Writes the lock files again from pyproject.toml: `make lock`, or `make lock UPGRADE=--upgrade` for newer versions.
#
# Rules: one resolution for Python 3.11 and newer and every platform; hashes of all files, so that no index can hand over
# others; no index address and no local path, so that the files are the same wherever they are made. bench.txt is the
# largest set: it is resolved first and constrains the rest, so that all name the same version of a package. Two have
# packages that no other has: fuzz.txt (what fuzzes at the level of single branches runs on Linux alone) and docs.txt.
set -eu
cd "$(dirname "$0")/.."

resolve() {
    output=requirements/$1.txt
    shift
    # Not the machine's own configuration: an extra index or a folder of wheels here must not show there.
    uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links "$@" --output-file "$output"
    if grep -nE '://|file:|^-|[[:space:]]@[[:space:]]' "$output"; then
        echo "$output names an address or a path" >&2
        exit 1
    fi
    echo "$output: $(grep -c '^[a-z0-9]' "$output") packages"
}

# shellcheck disable=SC2086  # UPGRADE is a list of options, or empty
resolve bench ${UPGRADE:-} pyproject.toml --extra dev --extra test --extra bench --group build
resolve test --constraint requirements/bench.txt pyproject.toml --extra test --group build
resolve fuzz --constraint requirements/bench.txt pyproject.toml --extra fuzz --group build
resolve docs --constraint requirements/bench.txt pyproject.toml --extra docs --group build
resolve dev --constraint requirements/bench.txt pyproject.toml --extra dev --group build
resolve run --constraint requirements/bench.txt pyproject.toml
resolve otel --constraint requirements/bench.txt pyproject.toml --extra otel
resolve build --constraint requirements/bench.txt --group build
# shellcheck disable=SC2086
resolve installer ${UPGRADE:-} --group installer
