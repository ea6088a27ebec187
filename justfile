# Recipes for Keyward. `./just --list` shows them; `./just` installs this tool where it is missing.

set shell := ["bash", "-euo", "pipefail", "-c"]

cache := env("KEYWARD_BUILD_CACHE", env("XDG_CACHE_HOME", env("HOME") / ".cache") / "keyward-build")

# Outside the checkout, so that a fresh clone finds what an earlier one built.
export CARGO_TARGET_DIR := env("CARGO_TARGET_DIR", cache / "target")
export KEYWARD_GUEST_TARGET_DIR := cache / "guests-target"
export KEYWARD_TEST_GUESTS := cache / "guests"
export KEYWARD_TEST_NODE := cache / "tools/bin/node"
export PATH := cache / "tools/bin" + ":" + env("PATH")
# With it, wasmtime captures a host backtrace for every guest fault, which is slow and changes messages.
export RUST_BACKTRACE := "0"
export CARGO_TERM_PROGRESS_WHEN := "never"

# Shows the recipes.
default:
    @just --justfile {{ justfile() }} --list --unsorted

# Installs what building and testing needs; leaves alone what is there.
setup:
    @.ci/setup.sh

# Builds everything: with one set of features, so that no heavy crate is built twice.
build: setup
    cargo build --quiet --workspace --all-targets

# Builds the connectors and the hostile guests of the tests into components.
guests: build
    @mkdir -p "$KEYWARD_TEST_GUESTS"
    @for guest in plugins/hello plugins/github tests/guests/hostile tests/guests/wasi; do \
        "$CARGO_TARGET_DIR/debug/keyward" plugin build "$guest" --out "$KEYWARD_TEST_GUESTS/$(basename "$guest").wasm"; \
    done
    @.ci/components.sh "$CARGO_TARGET_DIR/debug/keyward" "$KEYWARD_TEST_GUESTS"

# Shows the main job on real input: sign-in, a connector, an action, a flow, its history and the audit trail.
demo: guests
    @"$CARGO_TARGET_DIR/debug/demo"

# Runs the whole suite.
test: guests test-guests
    cargo nextest run --workspace --no-fail-fast
    cargo test --quiet --workspace --doc

# Runs the tests of the SDK and of the connectors, natively.
test-guests: setup
    cd sdk-guest && CARGO_TARGET_DIR="$KEYWARD_GUEST_TARGET_DIR" cargo test --quiet --workspace
    cd plugins && CARGO_TARGET_DIR="$KEYWARD_GUEST_TARGET_DIR" cargo test --quiet

# Checks format and lints, and which dependencies come in.
lint: setup
    cargo fmt --all --check
    for workspace in sdk-guest plugins tests/guests tests/fuzz; do (cd "$workspace" && cargo fmt --all --check); done
    cargo clippy --quiet --workspace --all-targets -- -D warnings
    for workspace in sdk-guest plugins tests/guests; do \
        (cd "$workspace" && CARGO_TARGET_DIR="$KEYWARD_GUEST_TARGET_DIR" cargo clippy --quiet --workspace --all-targets -- -D warnings); \
    done
    for manifest in Cargo.toml sdk-guest/Cargo.toml plugins/Cargo.toml tests/guests/Cargo.toml tests/fuzz/Cargo.toml; do \
        cargo deny --log-level error --manifest-path "$manifest" --config deny.toml check bans licenses sources; \
    done

# Formats everything.
format:
    cargo fmt --all
    for workspace in sdk-guest plugins tests/guests tests/fuzz; do (cd "$workspace" && cargo fmt --all); done

# Measures: a sandboxed call against the same request in native Rust, in one run; parts: cold call http memory.
bench *parts: guests
    cargo bench --quiet --package keyward-acceptance --bench sandbox -- {{ parts }}

# Fuzzes the rules, redirects, what people write, the search for secrets and the reader of components, each so long.
fuzz seconds="10": setup
    @cd tests/fuzz && for target in request redirect grammar redact component; do \
        mkdir -p "{{ cache }}/fuzz-corpus/$target"; \
        RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir . --sanitizer none --target-dir "{{ cache }}/fuzz-target" $target \
            "{{ cache }}/fuzz-corpus/$target" corpus/$target -- \
            -max_total_time={{ seconds }} -max_len=4096 -timeout=10 -rss_limit_mb=2048 -verbosity=0 -close_fd_mask=1; \
    done

# What continuous integration runs.
ci: lint test demo fuzz
