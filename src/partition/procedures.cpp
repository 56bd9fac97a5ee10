// Maintenance and partitions on demand, as SQL calls them.
#include "partition/call_steps.hpp"

using namespace tasker;

namespace {

Oid optional_parent(const pg::Args &args, int i)
{
    return args.is_null(i) ? InvalidOid : DatumGetObjectId(args.datum(i));
}

} // namespace

// run_maintenance(parent regclass = null)
//
// Creation comes first and in transactions of its own, so that nothing that fails later undoes it.
TASKER_FUNCTION(run_maintenance)
{
    const Oid parent = optional_parent(args, 0);
    partition::CallSteps steps(args, "tasker.run_maintenance()");

    partition::run_premake_round(steps, parent);
    if (partition::retire_request_hook == nullptr || !partition::retire_request_hook()) {
        partition::run_finalize_round(steps, parent);
        partition::run_retire_round(steps, parent);
    }
    partition::run_analyze_round(steps, parent);
    return 0;
}

// analyze_parents(parent regclass = null, force boolean = false)
TASKER_FUNCTION(analyze_parents)
{
    const Oid parent = optional_parent(args, 0);
    const bool force = args.boolean(1, "force");
    partition::CallSteps steps(args, "tasker.analyze_parents()");

    partition::run_analyze_round(steps, parent, force);
    return 0;
}

// create_partition(parent regclass, value text)
TASKER_FUNCTION(create_partition)
{
    const Oid parent = args.oid(0, "parent");
    const partition::SetConfig config = partition::describe_set(parent);
    const int64_t key = partition::parse_key(config.control, args.text(1, "value"));
    partition::check_key(config, key);
    return ObjectIdGetDatum(partition::ensure_partition(parent, key));
}
