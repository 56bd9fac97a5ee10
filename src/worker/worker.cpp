#include "worker/worker.hpp"

#include "worker/duty_runner.hpp"
#include "worker/partition_request.hpp"
#include "worker/process.hpp"

namespace tasker::worker {
namespace {

// What the slot says of a worker that is no more.
void clear_slot(DatabaseSlot &slot)
{
    slot.partition_wanted = false;
    if (slot.running_duty >= 0)
        slot.duties[slot.running_duty].running = false;
    slot.running_duty = -1;
    slot.yields = false;
    for (PartitionRequestSlot &request : shared()->requests) {
        if (request.database == slot.database && request.state != RequestState::free)
            SetLatch(request.latch);
    }
}

void sleep_until(int64_t wakeup_us)
{
    static uint32 wait_event = 0;
    if (wait_event == 0)
        wait_event = tasker_wait_event("TaskerWorkerMain");
    const int64_t left = wakeup_us - now_us();
    if (left <= 0)
        return;
    // Rounded up, so that the duty is due when the worker wakes.
    const long milliseconds = static_cast<long>(std::min<int64_t>(left / 1000 + 1, INT_MAX));
    pg::pg_call([&] {
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, milliseconds, wait_event);
    });
}

// One turn of the loop: whatever is to be done, else sleep.
void turn()
{
    ResetLatch(MyLatch);
    // A cancel that came when nothing was running concerns nothing.
    QueryCancelPending = false;
    pg::check_for_interrupts();
    if (must_leave())
        leave(Departure::asked);
    if (reload_settings())
        reschedule_duties(own_slot());
    if (own_process().look_again)
        look_for_extension("look for the extension");
    if (serve_partition_requests() > 0)
        request_duty("premake");
    const std::optional<Outcome> outcome = run_due_duty(own_slot());
    if (outcome)
        leave_unless_at_home(*outcome);
    else
        sleep_until(next_duty_us(own_slot()));
}

void run_worker(Oid database)
{
    begin_process(database, Role::worker, clear_slot);
    schedule_duties(own_slot());
    note_running();
    for (;;)
        turn();
}

} // namespace
} // namespace tasker::worker

extern "C" PGDLLEXPORT void tasker_worker_main(Datum database)
{
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, tasker::worker::on_sigterm);
    tasker::pg::boundary([&] { tasker::worker::run_worker(DatumGetObjectId(database)); });
}
