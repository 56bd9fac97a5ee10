# shellcheck shell=bash
# What every command of ./run shares: where things are, and how it speaks.

# The server to build against and to copy the private installation from.
find_pg_config() {
    local candidate
    for candidate in "${PG_CONFIG:-}" /usr/lib/postgresql/15/bin/pg_config pg_config; do
        if [[ -n $candidate ]] && command -v "$candidate" >/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "no pg_config found" "Install PostgreSQL 15 with its server headers, or set PG_CONFIG."
}

# Debian's psycopg belongs to Debian's python, whatever stands first in PATH.
find_python() {
    if [[ -n ${PYTHON:-} ]]; then
        printf '%s\n' "$PYTHON"
    elif [[ -x /usr/bin/python3 ]]; then
        printf '/usr/bin/python3\n'
    else
        printf 'python3\n'
    fi
}

# Colours only where somebody looks.
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    BOLD=$'\e[1m' RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m'
else
    BOLD='' RED='' GREEN='' PLAIN=''
fi

say() { printf '%s\n' "$*"; }
heading() { printf '\n%s%s%s\n' "$BOLD" "$*" "$PLAIN"; }

# Prints a message and, when given, a hint, and ends the script.
die() {
    printf '%srun: %s%s\n' "$RED" "$1" "$PLAIN" >&2
    if (($# > 1)); then
        printf 'hint: %s\n' "$2" >&2
    fi
    exit 1
}
