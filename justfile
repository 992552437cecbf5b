# The door to the workshop: `just` lists what can be done.

set shell := ["bash", "-euo", "pipefail", "-c"]

[private]
default:
    @just --list --unsorted

# Check types and run every test that needs no llama.cpp: seconds, not minutes
[group('every day')]
check *filter:
    cargo nextest run --no-default-features {{ filter }}

# Format the code
[group('every day')]
fmt:
    cargo fmt

# Hold the code to the lints, without llama.cpp
[group('every day')]
lint:
    cargo fmt --check
    cargo clippy --no-default-features --all-targets -- -D warnings

# Run everything that CI runs
[group('before a push')]
test:
    scripts/test

# Check licences, advisories and bans of the dependencies
[group('before a push')]
deny:
    cargo deny check

# Write the manifest's JSON Schema for editors to FILE
[group('by hand')]
schema file="fleet.schema.json":
    cargo run --quiet --no-default-features --bin bramble -- schema > {{ file }}

# The main job from nothing to answers, on two hosts on this machine
[group('by hand')]
demo:
    scripts/demo

# A Pi 4 and a Pi 5, emulated, from bare to answers through the bundle for Pis (`cta`: without a kernel of their own)
[group('by hand')]
arm-story kind="arm":
    source scripts/lib.sh && build_programs && scripts/bundle aarch64-unknown-linux-gnu && tests/e2e/host {{ kind }}

# A bare machine from `bramble sdcard` to its first login; `arm`: an emulated Pi, `ct`: a container
[group('by hand')]
card-story kind="arm":
    source scripts/lib.sh && build_programs && tests/e2e/sdcard {{ kind }}

# Hold the engine on a graphics processor to the CPU, with Mesa's software driver in place of a card; half an hour of C++ the first time
[group('by hand')]
gpu:
    source scripts/lib.sh && source scripts/vulkan.sh && need_vulkan && need_packages "a driver without a card" mesa-vulkan-drivers && \
        VK_ICD_FILENAMES=$(echo /usr/share/vulkan/icd.d/lvp_icd.*.json) \
        BRAMBLE_TEST_GGUF=${BRAMBLE_TEST_GGUF:-${XDG_CACHE_HOME:-$HOME/.cache}/bramble/reference/smollm2-135m-instruct.q4_1.gguf} \
        cargo test --release --locked --features vulkan --test gpu -- --nocapture --test-threads 1

# Make what is published: archives for operators on aarch64 and x86_64, with both bundles; half an hour the first time
[group('by hand')]
release:
    scripts/release

# Break applies off, COUNT times: WHAT is plug, machine (a plug, with a kernel of its own), operator or link
[group('by hand')]
interrupted what="plug" count="200":
    source scripts/lib.sh && build_programs && tests/e2e/interrupted {{ what }} {{ count }}

# Fuzz every reader of foreign bytes for SECONDS, or those that are named, and note it in fuzz/RUNS.csv; needs `cargo install cargo-fuzz`
[group('by hand')]
fuzz seconds="60" *targets:
    scripts/fuzz {{ seconds }} {{ targets }}

# Let links, disks, bytes and clocks fail in the middle of pushes, many times: minutes, and disks need root
[group('by hand')]
faults:
    cargo test --release --no-default-features --test faults -- --ignored --nocapture

# Measure the figures of an area anew
[group('by hand')]
figures area *mode:
    scripts/figures {{ area }} {{ mode }}

# Drive the page in a browser, and keep pictures of what it looked like in FOLDER
[group('by hand')]
page folder="target/page":
    source scripts/lib.sh && need_cargo && cargo build --quiet --no-default-features --bins --example fleet_keys && \
        tools=${XDG_CACHE_HOME:-$HOME/.cache}/bramble/reference/page && tests/page/prepare "$tools" && \
        PYTHONDONTWRITEBYTECODE=1 "$tools/bin/python" tests/page/suite.py "$CARGO_TARGET_DIR/debug" "$tools/axe.min.js" {{ folder }}

# Bring hosts on this machine up or down: `just lab up`
[group('by hand')]
lab *arguments:
    tests/lab/lab {{ arguments }}
