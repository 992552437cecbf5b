#!/bin/sh
# Installs bramble, the operator's command, with what hosts run, its manual pages and its completions for bash, zsh and fish, for one
# user or for all.
#
#   install.sh [--prefix DIR] [--version VERSION] [--from PLACE]
#   install.sh --remove [--prefix DIR]
#
#   --prefix DIR       where to: DIR/bin and DIR/share (~/.local; of root /usr/local)
#   --version VERSION  which release (the last one)
#   --from PLACE       a folder or an address (https://) with the files of a release, in place of the one that
#                      this script lies in, and of the project's own
#   --remove           take away what it has put there; fleets, their keys and caches of models stay
#
# Needs Linux with glibc on x86_64 or aarch64, tar, gzip, sha256sum and, for an address, curl or wget.
set -eu

releases=https://github.com/bramble-fleet/bramble/releases

say() { printf '%s\n' "$*" >&2; }
die() {
    say "install.sh: $*"
    exit 1
}

# get NAME: brings a file of the release into the current folder
get() {
    case $from in
    *://*)
        if command -v curl >/dev/null; then
            curl --fail --silent --show-error --location --proto =https --retry 3 --output "$1" "$from/$1"
        elif command -v wget >/dev/null; then
            wget --quiet --output-document "$1" "$from/$1"
        else
            die "curl or wget is needed to fetch $from/$1"
        fi || die "cannot fetch $from/$1"
        ;;
    *) cp -- "$from/$1" "$1" || die "there is no $1 in $from" ;;
    esac
}

main() {
    prefix='' version='' from='' remove=''
    while [ $# -gt 0 ]; do
        case $1 in
        --prefix | --version | --from)
            [ $# -ge 2 ] || die "$1 wants a value"
            case $1 in
            --prefix) prefix=$2 ;;
            --version) version=${2#v} ;;
            --from) from=${2%/} ;;
            esac
            shift 2
            ;;
        --remove)
            remove=yes
            shift
            ;;
        -h | --help)
            sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
            exit 0
            ;;
        *) die "what is $1? install.sh [--prefix DIR] [--version VERSION] [--from PLACE] [--remove]" ;;
        esac
    done
    if [ -z "$prefix" ]; then
        if [ "$(id -u)" = 0 ]; then prefix=/usr/local; else prefix=${HOME:?}/.local; fi
    fi
    case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
    if [ -n "$remove" ]; then
        [ -e "$prefix/bin/bramble" ] || die "there is no bramble in $prefix/bin"
        remove_words
        rm -rf "$prefix/share/bramble" "$prefix/share/doc/bramble"
        rm -f "$prefix/bin/bramble" || die "cannot remove $prefix/bin/bramble: use sudo"
        say "bramble is no more in $prefix"
        say_what_stays
        exit 0
    fi
    if [ -z "$from" ]; then
        here=$(dirname -- "$0")
        if [ -f "$0" ] && [ -f "$here/SHA256SUMS" ] && [ -z "$version" ]; then
            # it lies in a release that somebody has brought
            from=$here
        else
            from=$releases/latest/download
            [ -z "$version" ] || from=$releases/download/v$version
        fi
    fi
    # the sums come from the same place: whoever could change a program on its way would change them, too
    case $from in
    https://* | /*) ;;
    *://*) die "$from is not read: name an address that begins with https://, or a folder" ;;
    *) from=$PWD/$from ;;
    esac

    [ "$(uname -s)" = Linux ] || die "there is no release for $(uname -s): in Linux (on Windows, WSL2) there is; docs/macos.md says how a Mac builds it"
    case $(uname -m) in
    x86_64 | amd64) machine=x86_64 ;;
    aarch64 | arm64) machine=aarch64 ;;
    *) die "there is no release for $(uname -m), but for x86_64 and aarch64" ;;
    esac
    for needed in tar gzip sha256sum; do
        command -v "$needed" >/dev/null || die "$needed is needed"
    done

    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    cd "$work"
    get SHA256SUMS
    # a line is a digest, two signs, and a name
    name=$(sed -n "s/^[0-9a-f]\{64\} [ *]\(bramble-[0-9A-Za-z.+-]*-$machine-unknown-linux-gnu\.tar\.gz\)\$/\1/p" SHA256SUMS)
    case $name in
    *.gz*.gz) die "$from has several releases" ;;
    "bramble-$version"*.gz) ;;
    *) die "$from has no release $version for $machine" ;;
    esac
    say "fetching $name from $from"
    get "$name"
    sed -n "s/^\([0-9a-f]*\) [ *]$name\$/\1  $name/p" SHA256SUMS | sha256sum -c - >/dev/null 2>&1 ||
        die "$name is not what SHA256SUMS says: it came damaged or was changed; nothing was installed"
    gzip -dc "$name" | tar -xf -
    new=$work/${name%.tar.gz}
    is=$("$new/bin/bramble" --version 2>&1) ||
        die "it does not run here, so nothing was installed: $is (it needs glibc; build it yourself, as the README says)"

    bundles=$prefix/share/bramble/bundles
    mkdir -p "$prefix/bin" "$bundles" "$prefix/share/doc" || die "cannot write to $prefix: choose another --prefix, or use sudo"
    # A description names its archive, so archives come first and those of older releases go last: whoever runs
    # bramble meanwhile finds one that fits the other.
    for file in "$new"/share/bramble/bundles/*.gz "$new"/share/bramble/bundles/*.json; do
        put "$file" "$bundles/${file##*/}"
    done
    put "$new/bin/bramble" "$prefix/bin/bramble"
    for file in "$bundles"/brambled-*.tar.gz; do
        [ -e "$new/share/bramble/bundles/${file##*/}" ] || rm -f "$file"
    done
    # not those of commands that are no more
    remove_words
    for folder in $words; do
        mkdir -p "$prefix/share/$folder"
        cp "$new/share/$folder"/* "$prefix/share/$folder/"
    done
    rm -rf "$prefix/share/doc/bramble"
    cp -R "$new/share/doc/bramble" "$prefix/share/doc/bramble"
    say "$is is in $prefix/bin/bramble"
    case :$PATH: in
    *:"$prefix/bin":*) ;;
    *) say "$prefix/bin is not in your PATH: add it, as with: export PATH=\"$prefix/bin:\$PATH\"" ;;
    esac
}

# Manual pages and completions, below share, among those of other programs.
words='man/man1 bash-completion/completions zsh/site-functions fish/vendor_completions.d'
remove_words() {
    rm -f "$prefix/share/man/man1/bramble.1" "$prefix/share/man/man1"/bramble-*.1 "$prefix/share/bash-completion/completions/bramble" \
        "$prefix/share/zsh/site-functions/_bramble" "$prefix/share/fish/vendor_completions.d/bramble.fish"
}

# The folders are those that the command takes by itself.
say_what_stays() {
    home=${HOME:-~}
    say "What stays, of each user: manifests with their bramble.lock, hosts' keys in $home/.ssh/known_hosts, weights in ${XDG_CACHE_HOME:-$home/.cache}/bramble (safe to delete), and keys of fleets in ${XDG_STATE_HOME:-$home/.local/state}/bramble (hosts that still run cannot be changed without them)."
    say "Hosts go on serving. To end that, install it again, and say: bramble remove --all"
}

# put FILE PLACE: in one step
put() {
    cp -p "$1" "$2.new"
    mv -f "$2.new" "$2"
}

# the whole script has been read when it begins to run, also from a pipe
main "$@"
