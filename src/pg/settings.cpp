#include "pg/settings.hpp"

namespace tasker::pg::settings {

double analyze_scale_factor = 0.1;
int analyze_threshold = 1000;
bool auto_create_flows = true;
int clock_offset = 0;
char *databases = nullptr;
bool log_duties = false;
int lock_timeout = 200;
int max_databases = 16;
int max_flows = 4096;
int max_lanes = 65536;
int max_queues = 4096;
int min_tick_interval = 1;
int sweep_interval = 5;
bool worker = true;

namespace {

// One row per setting; the overloads choose the type by the variable.
struct Row
{
    const char *name;
    GucContext context;
    int flags;
    const char *summary;
    const char *details;
};

void define_one(const Row &row, bool *variable)
{
    DefineCustomBoolVariable(row.name, row.summary, row.details, variable, *variable, row.context, row.flags,
                             nullptr, nullptr, nullptr);
}

void define_one(const Row &row, int *variable, int low, int high)
{
    DefineCustomIntVariable(row.name, row.summary, row.details, variable, *variable, low, high, row.context,
                            row.flags, nullptr, nullptr, nullptr);
}

void define_one(const Row &row, double *variable, double low, double high)
{
    DefineCustomRealVariable(row.name, row.summary, row.details, variable, *variable, low, high, row.context,
                             row.flags, nullptr, nullptr, nullptr);
}

void define_one(const Row &row, char **variable, const char *value)
{
    DefineCustomStringVariable(row.name, row.summary, row.details, variable, value, row.context, row.flags,
                               nullptr, nullptr, nullptr);
}

} // namespace

// Settings that size shared memory are read at server start and exist only under shared_preload_libraries.
void define()
{
    const bool preloaded = process_shared_preload_libraries_in_progress;

    define_one({"tasker.analyze_scale_factor", PGC_SIGHUP, 0,
                "Share of a partitioned table's rows that must have changed before its parent is analyzed.",
                nullptr},
               &analyze_scale_factor, 0.0, 100.0);
    define_one({"tasker.analyze_threshold", PGC_SIGHUP, 0,
                "Number of changed rows, added to the share, before a parent is analyzed.", nullptr},
               &analyze_threshold, 0, INT_MAX);
    define_one(
        {"tasker.auto_create_flows", PGC_USERSET, 0, "Creates a flow at the first enqueue into it.", nullptr},
        &auto_create_flows);
    define_one({"tasker.clock_offset", PGC_SUSET, GUC_UNIT_S | GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL,
                "Time that the clock of partition maintenance is ahead of the real one.",
                "For tests only: partitions are made and retired as if it were then."},
               &clock_offset, 0, INT_MAX);
    define_one({"tasker.databases", PGC_SIGHUP, 0, "Databases that get a background worker.",
                "A comma-separated list of names; empty means every database that has the extension."},
               &databases, "");
    define_one(
        {"tasker.lock_timeout", PGC_SIGHUP, GUC_UNIT_MS, "Longest wait of a duty for a lock.", nullptr},
        &lock_timeout, 1, INT_MAX);
    define_one({"tasker.log_duties", PGC_SIGHUP, 0, "Logs each run of a duty.", nullptr}, &log_duties);
    if (preloaded) {
        define_one({"tasker.max_databases", PGC_POSTMASTER, 0, "Databases that shared memory has room for.",
                    nullptr},
                   &max_databases, 1, 10000);
        define_one({"tasker.max_flows", PGC_POSTMASTER, 0, "Flows that shared memory has room for.",
                    "Counted over all databases. Beyond it flows work without shared memory, slower."},
                   &max_flows, 16, 1000000);
        define_one({"tasker.max_lanes", PGC_POSTMASTER, 0,
                    "Combinations of flow, priority and partition that shared memory has room for.",
                    "Counted over all databases. Beyond it flows work without shared memory, slower."},
                   &max_lanes, 64, 10000000);
        define_one(
            {"tasker.max_queues", PGC_POSTMASTER, 0,
             "Queues of the event stream that shared memory has room for.",
             "Counted over all databases. Ticks of the queues beyond follow commits at a higher price."},
            &max_queues, 16, 1000000);
    }
    define_one({"tasker.min_tick_interval", PGC_SIGHUP, GUC_UNIT_MS,
                "Shortest time between two ticks of one queue of the event stream.", nullptr},
               &min_tick_interval, 1, 3600000);
    define_one({"tasker.sweep_interval", PGC_SIGHUP, GUC_UNIT_S,
                "Time between two sweeps of the live window by the background worker.", nullptr},
               &sweep_interval, 1, 86400);
    define_one({"tasker.worker", PGC_SIGHUP, 0, "Runs the background worker.", nullptr}, &worker);
    MarkGUCPrefixReserved("tasker");
}

} // namespace tasker::pg::settings
