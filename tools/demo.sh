# shellcheck shell=bash
# ./run demo: a licence audit of this machine's packages as a workflow, whose workers meet with accidents.

run_demo() {
    ensure_deps
    scratch_open
    copy_tree
    install_quietly
    run_job demo_job "$@"
    mkdir -p "$TOP/demo/out"
    cp -r "$SCRATCH/out/." "$TOP/demo/out/"
    exit "$JOB_STATUS"
}

# Expects the private installation; leaves the findings in the scratch folder.
demo_job() {
    cluster_start demo "shared_preload_libraries = 'tasker'" "max_worker_processes = 16"
    say "a private server runs in $SCRATCH; it goes when the demo ends"
    as_user mkdir "$SCRATCH/out"
    as_user env "PGHOST=$PGHOST" "PGPORT=$PGPORT" "PGUSER=$PGUSER" "PGDATABASE=$PGDATABASE" "DEMO_OUT=$SCRATCH/out" \
        "$(find_python)" "$SCRATCH/tree/demo/demo.py" "$@"
}
