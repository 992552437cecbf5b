# Builds for a bare Raspberry Pi OS or Debian 12 on whatever Debian or Ubuntu is here. Source
# it after lib.sh.
# shellcheck shell=bash disable=SC2034,SC2154 # set by lib.sh, and for those who source this

# The oldest system that bundles run on: its libraries are what is linked against, so that no
# symbol of a newer C library is asked for, whatever this machine has.
oldest_suite=bookworm
oldest_glibc=2.36

# use_cross TARGET: sets the environment in which cargo (then in $cargo, with --target TARGET)
# builds for TARGET. clang builds for every machine, and gcc 12 does not know the newest of
# llama.cpp's CPU variants (armv9.2-a+sme).
use_cross() {
    local target=$1 flags variable home=${CARGO_HOME:-$HOME/.cargo}
    case $target in
    aarch64-unknown-linux-gnu) cross_arch=arm64 gnu=aarch64-linux-gnu ;;
    x86_64-unknown-linux-gnu) cross_arch=amd64 gnu=x86_64-linux-gnu ;;
    *) die "there are no bundles for $target (there are for: aarch64-unknown-linux-gnu x86_64-unknown-linux-gnu)" ;;
    esac
    need_packages "building for $target" clang-19 lld-19 llvm-19 mmdebstrap debian-archive-keyring "${build_packages[@]}"
    need_sysroot
    need_std "$target"
    variable=${target//-/_}
    # what is published does not say whose machine it was built on, and is the same from every one
    flags="--target=$gnu --sysroot=$sysroot -ffile-prefix-map=$home=/cargo"
    export "CC_$variable=clang-19" "CXX_$variable=clang++-19" "AR_$variable=llvm-ar-19"
    export "CFLAGS_$variable=$flags" "CXXFLAGS_$variable=$flags" "BINDGEN_EXTRA_CLANG_ARGS_$variable=$flags"
    export CMAKE_SHARED_LINKER_FLAGS=-fuse-ld=lld CMAKE_MODULE_LINKER_FLAGS=-fuse-ld=lld CMAKE_EXE_LINKER_FLAGS=-fuse-ld=lld
    variable=${variable^^}
    export "CARGO_TARGET_${variable}_LINKER=clang-19"
    # in this form it takes the place of every other setting, such as a target-cpu=native
    printf -v CARGO_ENCODED_RUSTFLAGS '%s\x1f%s\x1f%s\x1f%s' \
        "-Clink-arg=--target=$gnu" "-Clink-arg=--sysroot=$sysroot" "-Clink-arg=-fuse-ld=lld" "--remap-path-prefix=$home=/cargo"
    export CARGO_ENCODED_RUSTFLAGS
    # where it is this machine's own target, build scripts are linked by these settings, too: in a folder of
    # its own, since all of llama.cpp would be built anew with every change from one to the other
    [ "$target" != "$(host_triple)" ] || export CARGO_TARGET_DIR=$CARGO_TARGET_DIR/portable
    unset CFLAGS CXXFLAGS LDFLAGS CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH LIBRARY_PATH
}

# need_sysroot: unpacks the C and C++ libraries of the oldest system, once, into $sysroot.
need_sysroot() {
    local mirror=
    sysroot=${XDG_CACHE_HOME:-$HOME/.cache}/bramble/sysroots/$oldest_suite-$cross_arch
    [ ! -d "$sysroot" ] || return 0
    say "fetching the libraries of Debian $oldest_suite ($cross_arch) to link against, once: $sysroot"
    # the mirror of this machine's own apt has the other suites, too
    if [ "$(sed -n 's/^ID=//p' /etc/os-release)" = debian ]; then
        mirror=$(apt-get indextargets --format "\$(CODENAME) \$(REPO_URI)" 2>/dev/null |
            awk -v c="$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)" '$1 == c { print $2; exit }')
    fi
    mkdir -p "${sysroot%/*}"
    as_root rm -rf "$sysroot.new"
    # nothing of it is ever run
    as_root mmdebstrap --quiet --variant=extract --architectures="$cross_arch" \
        --include=libc6-dev,libstdc++-12-dev "$oldest_suite" "$sysroot.new" \
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror:-http://deb.debian.org/debian} $oldest_suite main" >&2
    # links that begin at the root lead into this system, not into that one: libm.so would not be found, and a
    # static libm.a taken in its place
    # shellcheck disable=SC2016 # it is the shell of each folder that expands this
    as_root find "$sysroot.new" -type l -lname '/*' -exec sh -c '
        for link; do ln -srfn "$0$(readlink "$link")" "$link"; done' "$sysroot.new" {} +
    as_root chmod 0755 "$sysroot.new"
    as_root mv "$sysroot.new" "$sysroot"
}

# need_std TARGET: Rust's own library for TARGET, from rustup, else from Debian, whose cargo
# and rustc it needs then.
need_std() {
    local target=$1 has=${BRAMBLE_STD:-any} wanted
    if [ "$has" != debian ]; then
        [ ! -d "$(rustc --print target-libdir --target "$target" 2>/dev/null)" ] || return 0
        if command -v rustup >/dev/null; then
            RUSTUP_MAX_RETRIES=1 timeout 300 rustup target add "$target" >&2 && return 0
            say "rustup cannot fetch the target $target; trying Debian's packages"
        fi
    fi
    [ "$(sed -n 's/^ID=//p' /etc/os-release)" = debian ] ||
        die "there is no Rust for $target: install rustup (https://rustup.rs) and run: rustup target add $target"
    if [ "$(dpkg --print-architecture)" != "$cross_arch" ]; then
        dpkg --print-foreign-architectures | grep -qx "$cross_arch" || as_root dpkg --add-architecture "$cross_arch"
    fi
    need_packages "building Rust for $target without rustup" rustc-web cargo-web "libstd-rust-web-dev:$cross_arch" \
        "libstd-rust-web-dev:$(dpkg --print-architecture)"
    cargo=/usr/bin/cargo
    export RUSTC=/usr/bin/rustc
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$repo/Cargo.toml")
    printf '%s\n' "$wanted" "$($RUSTC --version | cut -d ' ' -f 2)" | sort -C -V ||
        die "Debian's Rust is $($RUSTC --version | cut -d ' ' -f 2), and $wanted is needed: install rustup (https://rustup.rs)"
}
