# What the scripts that look at a host begin with. POSIX sh.
LC_ALL=C
export LC_ALL
PATH="$PATH:/usr/sbin:/sbin:/usr/bin:/bin"

say() { printf '%s=%s\n' "$1" "$2"; }
section() {
    printf '\n@@ begin %s\n' "$1"
    shift
    "$@" 2>/dev/null
    printf '\n@@ end\n'
}
# shellcheck disable=SC2034 # line is read by the scripts behind
# Sets line to the first one of a file; empty: there is none.
first_line() { line= && [ -r "$1" ] && IFS= read -r line <"$1"; } 2>/dev/null
