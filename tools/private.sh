# shellcheck shell=bash
# A server of our own: a copy of the installation, an unprivileged user, everything in one temporary folder that
# is removed at the end, however the end comes.
#
# The server finds its libraries and extensions relative to its own program file. So the programs are copied into
# a scratch root, its libraries and shared files are linked there, and `make install DESTDIR=` adds Tasker:
# nothing is written to the system, and several runs do not meet.

SCRATCH=''      # the temporary folder
RUN_USER=''     # who runs servers and tests; empty: the caller
JOB=''          # process group of the part that is running
JOB_STATUS=0    # how the last one ended

# Opens the scratch folder and makes sure that it goes again.
scratch_open() {
    # Not $TMPDIR: a socket's path may have 107 bytes, and the folder must be reachable by the other user.
    SCRATCH=$(mktemp -d /tmp/tasker.XXXXXX)
    trap scratch_close EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    if ((EUID == 0)); then
        RUN_USER=postgres
        getent passwd postgres >/dev/null || die "there is no user postgres to run the server as"
        chown "$RUN_USER" "$SCRATCH"
    fi
    mkdir "$SCRATCH/tmp" "$SCRATCH/root"
    chmod 1777 "$SCRATCH/tmp"
    PG_CONFIG=$(find_pg_config)
    SYSTEM_BIN=$("$PG_CONFIG" --bindir)
    PGXS_SRC=$(dirname "$(dirname "$("$PG_CONFIG" --pgxs)")")
    BIN=$SCRATCH/root$SYSTEM_BIN
    export PG_CONFIG
}

# Ends what still runs out of the scratch folder and removes it. Every server, psql and pgbench that was started
# is a program file in there, which tells them apart from everybody else's.
scratch_close() {
    local rc=$?
    set +e
    trap - EXIT
    trap '' INT TERM HUP
    end_job TERM
    end_our_processes QUIT
    end_job KILL
    end_our_processes KILL
    if [[ -n ${TASKER_KEEP:-} ]]; then
        say "kept: $SCRATCH"
    else
        rm -rf "$SCRATCH"
    fi
    exit "$rc"
}

# Sends a signal to the part that is running, and waits up to five seconds for it to be gone.
end_job() {
    local i
    if [[ -z $JOB ]] || ! kill -s "$1" -- "-$JOB" 2>/dev/null; then
        return 0
    fi
    for ((i = 0; i < 50; i++)); do
        kill -0 -- "-$JOB" 2>/dev/null || return 0
        sleep 0.1
    done
}

our_processes() {
    local exe link
    for exe in /proc/[0-9]*/exe; do
        link=$(readlink "$exe" 2>/dev/null) || continue
        if [[ $link == "$SCRATCH"/* ]]; then
            exe=${exe%/exe}
            printf '%s\n' "${exe#/proc/}"
        fi
    done
}

# Sends a signal to all of them and waits up to five seconds for them to be gone.
end_our_processes() {
    local -a pids
    local i
    for ((i = 0; i < 50; i++)); do
        mapfile -t pids < <(our_processes)
        if ((${#pids[@]} == 0)); then
            return 0
        fi
        if ((i == 0)); then
            kill -s "$1" "${pids[@]}" 2>/dev/null || true
        fi
        sleep 0.1
    done
}

# Runs a command as the unprivileged user, from the scratch folder, with the private programs first in PATH, and in
# the same locale everywhere: databases made under it are UTF-8. (LANG too: the TAP tests' own module takes LC_ALL away.)
as_user() {
    local -a command=(env -u PERL5OPT "HOME=$SCRATCH" "TMPDIR=$SCRATCH/tmp" "PATH=$BIN:$PATH"
        LANG=C.UTF-8 LC_ALL=C.UTF-8 "$@")
    cd "$SCRATCH"
    if [[ -n $RUN_USER ]]; then
        runuser -u "$RUN_USER" -- "${command[@]}"
    else
        "${command[@]}"
    fi
}

# Runs a function in a process group of its own, so that a signal ends the function with all its children, and
# waits for it in a way that a signal can interrupt. The function's status is left in JOB_STATUS and not returned:
# a caller that tested it would switch off `set -e` inside the function.
run_job() {
    JOB_STATUS=0
    set -m
    (
        set -e
        "$@"
    ) </dev/null &
    JOB=$!
    set +m
    wait "$JOB" || JOB_STATUS=$?
    JOB=''
}

# Copies the tree to where the unprivileged user can read it.
copy_tree() {
    mkdir "$SCRATCH/tree"
    tar -C "$TOP" --exclude=./.git --exclude=./build --exclude='*.o' --exclude='*.so' --exclude='./*/out' -cf - . |
        tar -C "$SCRATCH/tree" --no-same-owner -xf -
    if [[ -n $RUN_USER ]]; then
        chown -R "$RUN_USER" "$SCRATCH/tree"
    fi
    chmod -R u+rwX,go+rX "$SCRATCH/tree"
}

# Builds in the source tree; what is up to date stays.
build() {
    make -C "$TOP" -j"$(nproc)" --no-print-directory PG_CONFIG="$PG_CONFIG" "$@"
}

# Lays out the scratch root and installs the built extension into it.
private_install() {
    local folder
    mkdir -p "$(dirname "$BIN")"
    cp -rL "$SYSTEM_BIN" "$BIN"
    for folder in "$("$PG_CONFIG" --pkglibdir)" "$("$PG_CONFIG" --sharedir)"; do
        mkdir -p "$(dirname "$SCRATCH/root$folder")"
        cp -rs "$folder" "$SCRATCH/root$folder"
    done
    # A Tasker that the system has must not shine through.
    find "$SCRATCH/root" -name 'tasker*' -delete
    build install DESTDIR="$SCRATCH/root"
    chmod -R go+rX "$SCRATCH/root"
}

# Build and installation for those who only want to use the result; what the compiler says is shown if it fails.
install_quietly() {
    local log=$SCRATCH/tmp/build.log
    heading "building, and installing into a private root"
    run_job build_and_install "$log"
    if ((JOB_STATUS != 0)); then
        tail -n 60 "$log"
        die "the build failed"
    fi
}

build_and_install() {
    build >"$1" 2>&1
    private_install >>"$1" 2>&1
}

# cluster_start NAME [LINE...]: makes and starts a cluster, LINEs added to its postgresql.conf. PGHOST points to it
# afterwards. Durability of the folder itself is not wanted: it is thrown away.
cluster_start() {
    local dir=$SCRATCH/$1
    shift
    as_user mkdir "$dir"
    as_user initdb -D "$dir/data" -U postgres -A trust -E UTF8 --no-locale -N >"$SCRATCH/tmp/initdb.log" 2>&1 ||
        { cat "$SCRATCH/tmp/initdb.log" >&2; die "initdb failed"; }
    printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$dir'" "port = 5432" "$@" |
        as_user tee -a "$dir/data/postgresql.conf" >/dev/null
    as_user pg_ctl -D "$dir/data" -l "$dir/log" -w -t 60 start >"$SCRATCH/tmp/start.log" 2>&1 ||
        { cat "$SCRATCH/tmp/start.log" "$dir/log" >&2; die "the server did not start"; }
    export PGHOST=$dir PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
}

# Stops a cluster in an orderly way; fails when it had crashed or does not stop.
cluster_stop() {
    as_user pg_ctl -D "$SCRATCH/$1/data" -w -t 60 -m fast stop >/dev/null
}
