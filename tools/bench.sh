# shellcheck shell=bash
# ./run bench [PLANE] [OPTION...]: measures a plane against its baselines, in one run. See bench/README.md.
#
# The harness makes its own server, from our private installation and as the unprivileged user; the harness itself
# runs as the caller, so that its results and the peers that it installs stay in bench/out.

run_bench() {
    ensure_deps
    scratch_open
    install_quietly
    run_job bench_job "$@"
    exit "$JOB_STATUS"
}

bench_job() {
    env "BENCH_BINDIR=$BIN" "BENCH_TMP=$SCRATCH/tmp" "$(find_python)" "$TOP/bench/bench.py" "$@"
}
