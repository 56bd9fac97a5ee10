// The module's magic and its start. Everything else stands in the planes.
#include "pg/error.hpp"
#include "pg/settings.hpp"
#include "pg/shmem.hpp"
#include "queue/duties.hpp"
#include "queue/shared_state.hpp"
#include "stream/wake.hpp"
#include "worker/launcher.hpp"
#include "workflow/counts.hpp"
#include "workflow/events.hpp"
#include "workflow/lease.hpp"
#include "workflow/sets.hpp"
#include "workflow/views_planner.hpp"

extern "C" {
PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void)
{
    tasker::pg::boundary([] {
        tasker::pg::settings::define();
        tasker::queue::declare_shared_state();
        tasker::queue::declare_queue_set();
        tasker::workflow::declare_workflow_sets();
        tasker::workflow::declare_counts();
        tasker::workflow::declare_lease_hook();
        tasker::workflow::declare_transition_queue();
        tasker::workflow::install_planner_hook();
        tasker::stream::declare_wake_area();
        tasker::stream::declare_log_retention();
        tasker::worker::declare_launcher();
    });
}
}
