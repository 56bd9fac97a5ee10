# shellcheck shell=bash
# ./run bench [PLANE] [ARGUMENT...]: measures a plane against its baselines, in one run. See bench/README.md.

run_bench() {
    [[ -e $TOP/bench/bench.py ]] || die "there is no bench/bench.py"
    ensure_deps
    scratch_open
    copy_tree
    heading "building and installing into a private root"
    private_install >"$SCRATCH/tmp/build.log" 2>&1 || { cat "$SCRATCH/tmp/build.log"; die "the build failed"; }
    mkdir -p "$TOP/bench/out"
    as_user mkdir -p "$SCRATCH/out"
    run_job bench_job "$@"
    # Whoever runs the measurements may not write into the source tree; its results are fetched afterwards.
    cp -r "$SCRATCH/out/." "$TOP/bench/out/"
    say "results: bench/out"
    exit "$JOB_STATUS"
}

bench_job() {
    as_user env "BENCH_BINDIR=$BIN" "BENCH_OUT=$SCRATCH/out" "BENCH_TMP=$SCRATCH/tmp" \
        "$(find_python)" "$SCRATCH/tree/bench/bench.py" "$@"
}
