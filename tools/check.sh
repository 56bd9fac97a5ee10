# shellcheck shell=bash
# ./run check: everything that can be checked, part by part.
#
# A part is a function check_NAME. It prints what it does, and leaves two numbers, passed and failed, with `result`.
# A part that ends without having left a result, or with an error and no failure counted, counts as one failure.

CHECK_PARTS=(build style script schedules unit regress plain pgtap isolation tap demo)

declare -A PART_TITLES=(
    [build]="build without a warning, and install into a private root"
    [style]="clang-format and shellcheck"
    [script]="the committed tasker--1.0.sql is what its parts make"
    [schedules]="every test file is run by something"
    [unit]="unit tests of the plain C++ (GoogleTest)"
    [regress]="regression tests (pg_regress), library preloaded"
    [plain]="the same regression tests without shared_preload_libraries"
    [pgtap]="pgTAP tests"
    [isolation]="isolation tests (pg_isolation_regress)"
    [tap]="TAP tests: crash, restart, standby, dump and restore"
    [demo]="the demo, whose proofs must hold"
)

# No part may take longer than this many seconds, and no single TAP test longer than that.
PART_LIMIT=1800
TAP_LIMIT=600

# What the servers of the tests are set to. A crash test is about the processes, not about the disk: no fsync.
TEST_SETTINGS=(
    "fsync = off"
    "max_prepared_transactions = 10"
    "max_connections = 60"
    "max_worker_processes = 20"
    "log_line_prefix = '%m [%p] %q%a '"
    "timezone = 'UTC'"
)

result() { printf '%s %s\n' "$1" "$2" >"$OUT/$PART.result"; }

# Runs a command as the test user, for no longer than a part may take.
limited() { as_user timeout --foreground -k 10 "$PART_LIMIT" "$@"; }

# --- the parts -------------------------------------------------------------------------------------------------

check_build() {
    local log=$OUT/make.log
    build 2>&1 | tee "$log" | compiler_progress
    private_install >"$OUT/install.log" 2>&1 || { cat "$OUT/install.log"; return 1; }
    touch "$OUT/installed"
    if grep -q 'warning:' "$log"; then
        result 0 1
    else
        result 1 0
    fi
}

check_style() {
    local file passed=0 failed=0
    local -a sources
    mapfile -t sources < <(find "$TOP/src" "$TOP/test" \( -name '*.cpp' -o -name '*.hpp' \) -print | sort)
    for file in "${sources[@]}"; do
        if clang-format --dry-run --Werror "$file" 2>"$OUT/format.log"; then
            passed=$((passed + 1))
        else
            say "    not formatted: ${file#"$TOP"/} ($(grep -c 'error:' "$OUT/format.log") places)"
            failed=$((failed + 1))
        fi
    done
    for file in "$TOP/run" "$TOP/.ci/run"; do # with -x the files that run sources are looked at too
        if shellcheck -x -P "$TOP" "$file"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
        fi
    done
    result "$passed" "$failed"
}

# The tree was copied before the build, so the copy holds the script as it was committed.
check_script() {
    local script=tasker--1.0.sql committed=$OUT/committed.sql
    if [[ ! -e $SCRATCH/tree/$script ]]; then
        say "    $script is missing: make it with \"make sql\" and commit it"
        result 0 1
        return
    fi
    cp "$SCRATCH/tree/$script" "$committed"
    rm "$SCRATCH/tree/$script"
    make -C "$SCRATCH/tree" --no-print-directory PG_CONFIG="$PG_CONFIG" "$script" >"$OUT/script.log" 2>&1 ||
        { cat "$OUT/script.log"; return 1; }
    if diff -u "$committed" "$SCRATCH/tree/$script" >"$OUT/script.diff"; then
        result 1 0
    else
        say "    $script differs from what its parts make now; it has been made again, commit it"
        head -n 40 "$OUT/script.diff"
        result 0 1
    fi
}

# From make's output: which file is being compiled, and what is wrong with it.
compiler_progress() { sed -unE 's/^(g\+\+|gcc|clang).* -c .*-o ([^ ]*\/)?([^ ]+)\.o .*/    \3/p; /(error|warning):/p'; }

scheduled() { sed -n 's/^test: *//p' "$1" 2>/dev/null | tr -s ' ' '\n'; }

# A test that nothing runs looks like a test that passes.
check_schedules() {
    local tree=$SCRATCH/tree
    {
        unscheduled "$tree/sql/schedule" "$tree/sql" .sql
        unscheduled "$tree/test/isolation/schedule" "$tree/test/isolation/specs" .spec
        without_pair "$tree/sql" .sql "$tree/expected"
        without_pair "$tree/test/isolation/specs" .spec "$tree/test/isolation/expected"
        strays "$tree/test/pgtap" sql
        strays "$tree/test/t" pl pm
        unbuilt_unit_tests "$tree/test/unit"
    } >"$OUT/unscheduled"
    sed 's/^/    /' "$OUT/unscheduled"
    if [[ -s $OUT/unscheduled ]]; then
        result 0 "$(wc -l <"$OUT/unscheduled")"
    else
        result 1 0
    fi
}

# unscheduled SCHEDULE FOLDER SUFFIX: files that the schedule does not name, and names without a file.
unscheduled() {
    local file name
    for file in "$2"/*"$3"; do
        [[ -e $file ]] || continue
        name=$(basename "$file" "$3")
        scheduled "$1" | grep -qxF "$name" || say "$name$3 is not in ${1#"$SCRATCH/tree/"}"
    done
    for name in $(scheduled "$1"); do
        [[ -e $2/$name$3 ]] || say "${1#"$SCRATCH/tree/"} names $name, which is not there"
    done
}

# without_pair FOLDER SUFFIX EXPECTED: tests without an expected result, and results without a test.
without_pair() {
    local file name
    for file in "$1"/*"$2"; do
        [[ -e $file ]] || continue
        name=$(basename "$file" "$2")
        [[ -e $3/$name.out ]] || say "$name$2 has no expected/$name.out"
    done
    for file in "$3"/*.out; do
        [[ -e $file ]] || continue
        name=$(basename "$file" .out)
        [[ -e $1/$name$2 || -e $1/${name%_[0-9]}$2 ]] || say "expected/$name.out belongs to no test"
    done
}

# strays FOLDER SUFFIX...: files that the pattern of their part does not find.
strays() {
    local folder=$1 file
    shift
    [[ -d $folder ]] || return 0
    find "$folder" -type f -print | while read -r file; do
        if [[ $(dirname "$file") != "$folder" || " $* " != *" ${file##*.} "* ]]; then
            say "${file#"$SCRATCH/tree/"} is not run by anything"
        fi
    done
}

unbuilt_unit_tests() {
    local file
    for file in "$1"/*_test.cpp; do
        [[ -e $file ]] || continue
        grep -qE "wildcard|$(basename "$file" .cpp)" "$1/Makefile" || say "test/unit/$(basename "$file") is not built"
    done
}

check_unit() {
    local log=$OUT/unit.log rc=0 total failed
    if [[ ! -e $TOP/test/unit/Makefile ]]; then
        no_tests_yet
        return
    fi
    timeout --foreground -k 10 "$PART_LIMIT" make -C "$TOP/test/unit" --no-print-directory -j"$(nproc)" \
        PG_CONFIG="$PG_CONFIG" check 2>&1 | tee "$log" | compiler_progress || rc=$?
    if ((rc != 0)); then
        grep -vE '^\[ +(RUN|OK) +\]' "$log" | tail -n 200
    fi
    failed=$(sed -nE 's/^ *([0-9]+) FAILED TESTS?$/\1/p' "$log")
    total=$(sed -nE 's/^\[=+\] ([0-9]+) tests? from .* ran\..*/\1/p' "$log")
    result "$((${total:-0} - ${failed:-0}))" "${failed:-0}"
    return "$rc"
}

check_regress() { regress_in regress "shared_preload_libraries = 'tasker'"; }
check_plain() { regress_in plain; }

# regress_in NAME [SETTING...]: the regression tests in a cluster of their own.
regress_in() {
    local name=$1
    shift
    if [[ -z $(scheduled "$SCRATCH/tree/sql/schedule") ]]; then
        no_tests_yet
        return
    fi
    cluster_start "$name" "${TEST_SETTINGS[@]}" "$@"
    pg_regress_run "$name" "$PGXS_SRC/test/regress/pg_regress" "$SCRATCH/tree" "$SCRATCH/tree/sql/schedule"
}

check_isolation() {
    local folder=$SCRATCH/tree/test/isolation
    if [[ -z $(scheduled "$folder/schedule") ]]; then
        no_tests_yet
        return
    fi
    cluster_start isolation "${TEST_SETTINGS[@]}" "shared_preload_libraries = 'tasker'"
    pg_regress_run isolation "$PGXS_SRC/test/isolation/pg_isolation_regress" "$folder" "$folder/schedule"
}

# pg_regress_run NAME PROGRAM INPUTDIR SCHEDULE: counts from the program's last line, which reads the same since
# PostgreSQL 15: "All N tests passed" or "M of N tests failed".
pg_regress_run() {
    local name=$1 program=$2 input=$3 schedule=$4 output=$SCRATCH/$1/out rc=0 total failed
    as_user mkdir "$output"
    limited "$program" --dbname=contrib_regression --bindir="$BIN" --host="$PGHOST" --port="$PGPORT" \
        --user=postgres --inputdir="$input" --outputdir="$output" --schedule="$schedule" 2>&1 |
        tee "$OUT/$name.log" || rc=$?
    total=$(sed -nE 's/.*All ([0-9]+) tests? passed.*/\1/p; s/.*of ([0-9]+) tests? failed.*/\1/p' "$OUT/$name.log")
    failed=$(sed -nE 's/.*[^0-9]?([0-9]+) of [0-9]+ tests? failed.*/\1/p' "$OUT/$name.log")
    if [[ -e $output/regression.diffs ]]; then
        cp "$output/regression.diffs" "$OUT/$name.diffs"
        head -n 400 "$OUT/$name.diffs"
    fi
    result "$((${total:-0} - ${failed:-0}))" "${failed:-0}"
    end_of_cluster "$name"
    return "$rc"
}

check_pgtap() {
    local -a files
    local rc=0
    mapfile -t files < <(find "$SCRATCH/tree/test/pgtap" -maxdepth 1 -name '*.sql' -print 2>/dev/null | sort)
    if ((${#files[@]} == 0)); then
        no_tests_yet
        return
    fi
    cluster_start pgtap "${TEST_SETTINGS[@]}" "shared_preload_libraries = 'tasker'"
    as_user createdb pgtap
    as_user psql -qX -v ON_ERROR_STOP=1 -d pgtap -c 'create extension pgtap' -c 'create extension tasker'
    limited pg_prove --psql-bin "$BIN/psql" -d pgtap "${files[@]}" 2>&1 | tee "$OUT/pgtap.log" || rc=$?
    prove_result "$OUT/pgtap.log"
    end_of_cluster pgtap
    return "$rc"
}

check_tap() {
    local -a files
    local rc=0 log
    # In reverse order: the worker's tests wait the longest, and two at a time are done sooner if they go first.
    mapfile -t files < <(find "$SCRATCH/tree/test/t" -maxdepth 1 -name '*.pl' -print 2>/dev/null | sort -r)
    if ((${#files[@]} == 0)); then
        no_tests_yet
        return
    fi
    as_user mkdir -p "$SCRATCH/tap"
    limited env -u PGHOST -u PGPORT -u PGUSER -u PGDATABASE "TESTDIR=$SCRATCH/tap" \
        "TESTDATADIR=$SCRATCH/tap/tmp_check" "TESTLOGDIR=$SCRATCH/tap/tmp_check/log" \
        "PG_TEST_PORT_DIR=$SCRATCH/tap/ports" "PG_REGRESS=$PGXS_SRC/test/regress/pg_regress" "PYTHON=$PYTHON" \
        "PERL5LIB=$PGXS_SRC/test/perl:$SCRATCH/tree/test/t" \
        prove -j2 --timer --exec "timeout --foreground -k 10 $TAP_LIMIT perl" "${files[@]}" 2>&1 |
        tee "$OUT/tap.log" || rc=$?
    prove_result "$OUT/tap.log"
    if ((rc != 0)); then
        cp -r "$SCRATCH/tap/tmp_check/log" "$OUT/tap_logs" 2>/dev/null || true
        sed -nE 's|.*/test/t/([^ /]+)\.pl +\(Wstat.*|\1|p' "$OUT/tap.log" | sort -u | while read -r log; do
            heading "last lines of regress_log_$log"
            tail -n 60 "$OUT/tap_logs/regress_log_$log" 2>/dev/null || true
        done
    fi
    return "$rc"
}

check_demo() {
    local rc=0
    demo_job 2>&1 | tee "$OUT/demo.log" || rc=$?
    result "$(grep -cE '^  .+ +[0-9]+  ok$' "$OUT/demo.log" || true)" \
        "$(grep -cE '^  .+ +[0-9]+  WRONG, wanted' "$OUT/demo.log" || true)"
    end_of_cluster demo
    return "$rc"
}

# --- what the parts share --------------------------------------------------------------------------------------

no_tests_yet() {
    say "    no test files yet"
    result 0 0
}

# Stops a part's cluster; a backend that crashed on the way is a failure, even where every test passed.
end_of_cluster() {
    cluster_stop "$1"
    if grep -E 'PANIC:|TRAP:|was terminated by signal|was terminated by exception' "$SCRATCH/$1/log"; then
        say "    the server crashed while the tests ran"
        return 1
    fi
}

# Counts from prove's summary: "FILE (Wstat: 256 Tests: 12 Failed: 2)" and "Files=3, Tests=40, ...". A file that broke
# off without a failed test of its own counts as one failure.
prove_result() {
    awk '
        /\(Wstat: .* Tests: [0-9]+ Failed: [0-9]+\)/ {
            sub(/.*Failed: /, ""); here = $0 + 0; failed += here; next
        }
        /Non-zero (exit|wait) status|Parse errors:|No plan found/ { if (here == 0) { failed++; broken++; here = 1 } }
        /^FAILED--Further testing stopped/ { failed++; broken++ }
        /^Files=[0-9]+, Tests=[0-9]+/ { split($2, parts, "="); tests += parts[2] + 0 }
        END { print tests - (failed - broken), failed + 0 }
    ' "$1" >"$OUT/$PART.result"
}

# Runs one part, shows and keeps its output, adds up its counts.
run_part() {
    local begin=$SECONDS passed=0 failed=0 colour=$GREEN
    PART=$1
    heading "[$2/$3] ${PART_TITLES[$PART]}"
    run_job part_with_log
    if [[ -s $OUT/$PART.result ]]; then
        read -r passed failed <"$OUT/$PART.result"
    else
        JOB_STATUS=1
    fi
    if ((JOB_STATUS != 0 && failed == 0)); then
        say "    this part broke off (status $JOB_STATUS)"
        failed=1
    fi
    if ((failed > 0)); then
        colour=$RED
        FAILED_PARTS+=("$PART")
    fi
    say "    $colour$passed ok, $failed not ok$PLAIN ($((SECONDS - begin)) s)"
    PASSED=$((PASSED + passed))
    FAILED=$((FAILED + failed))
}

part_with_log() { "check_$PART" 2>&1 | tee "$OUT/$PART.out"; }

# The parts to run: those named (the build comes first whatever is named), or all.
chosen_parts() {
    local name
    if (($# == 0)); then
        printf '%s\n' "${CHECK_PARTS[@]}"
        return
    fi
    say build
    for name in "$@"; do
        [[ -n ${PART_TITLES[$name]:-} ]] || die "there is no part $name" "The parts are: ${CHECK_PARTS[*]}"
        [[ $name == build ]] || say "$name"
    done
}

# Says the last word, whatever happened before: how much passed, how much failed.
closing_line() {
    say ""
    if ((${#FAILED_PARTS[@]} > 0)); then
        say "failed: ${FAILED_PARTS[*]}; logs are in build/check"
    fi
    say "$PASSED passed, $FAILED failed"
    ((FAILED == 0 && PASSED > 0))
}

run_check() {
    local -a parts
    local i
    PASSED=0 FAILED=0 FAILED_PARTS=()
    mapfile -t parts < <(chosen_parts "$@")
    ((${#parts[@]} > 0)) || exit 1
    ensure_deps
    scratch_open
    PYTHON=$(find_python)
    OUT=$TOP/build/check
    rm -rf "$OUT"
    mkdir -p "$OUT"
    copy_tree
    for ((i = 0; i < ${#parts[@]}; i++)); do
        run_part "${parts[i]}" "$((i + 1))" "${#parts[@]}"
        if [[ ${parts[i]} == build && ! -e $OUT/installed ]]; then
            say "    nothing else can run without the build"
            break
        fi
    done
    closing_line
}
