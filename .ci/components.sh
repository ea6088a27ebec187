#!/bin/sh
# Builds the connectors of the tests that are in other languages: .ci/components.sh <keyward> <folder for them>.
#
# Making such a component takes tens of seconds, so it is kept in the cache by the digest of what it is made of.
set -eu
repository=$(cd "$(dirname "$0")/.." && pwd)
cache=${KEYWARD_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/keyward-build}
keyward=$1
out=$2

# Makes the component of a folder of tests/guests: component <folder> <command, to which the component's path is added>.
component() {
    language=$1
    shift
    cd "$repository/tests/guests/$language"
    digest=$({ find . -path ./node_modules -prune -o -type f ! -name connector.toml ! -name actions.json ! -name '*.pyc' -print \
        | LC_ALL=C sort | xargs sha256sum; cat "$repository/.ci/tools.txt" "$repository"/wit/*.wit "$repository/.ci/components.sh"; } | sha256sum | cut -c1-16)
    made="$cache/components/$language-$digest.wasm"
    if [ ! -f "$made" ]; then
        printf 'building the component of %s\n' "tests/guests/$language" >&2
        mkdir -p "$cache/components"
        rm -rf "$cache/components/$language-"* "$out/$language.compiled"
        "$@" "$made.new"
        mv "$made.new" "$made"
    fi
    "$keyward" plugin build . --component "$made" --out "$out/$language.wasm"
}

component javascript "$cache/tools/bin/node" build.mjs
component python "$cache/tools/bin/componentize-py" --quiet -d ../../../wit -d wit -w keyward-test:python/python \
    componentize connector --python-path . --output
