// claim_steps(): records of the namespace's flows are claimed from the queue, and the steps that they stand
// for go in progress.
//
// A record is good for its step as long as the step names it and waits: enqueued, or for its retry. All
// others are stale: their step was cancelled, reset or resolved while the record was in line, or its
// partition was retired. They are dropped here and nobody hears of them.
//
// The task's row is read for its context and changed only where the claim makes a difference to it: for the
// first step of a scheduled task, and for a retry.
#include "pg/function.hpp"
#include "queue/claim.hpp"
#include "queue/failure.hpp"
#include "workflow/dependency_results.hpp"
#include "workflow/flows.hpp"
#include "workflow/records.hpp"
#include "workflow/task_counts.hpp"
#include "workflow/template.hpp"

namespace tasker::workflow {
namespace {

constexpr int64_t kMaxInlinedParents = 1000;

struct ClaimedStep
{
    core::Uuid uuid;
    int64_t record_id;
    TimestampTz lease_end; // of the record
    bool taken;
    core::Uuid named_step_uuid;
    int32_t attempts;
    int32_t total_parents;
    Datum name; // these are copies; 0: null
    Datum inputs;
    Datum checkpoint;
};

class StepSink final : public queue::ClaimSink
{
  public:
    void take(const queue::ClaimedRecord &record, const queue::ClaimTerms &terms) override
    {
        ClaimedStep step{};
        step.uuid = step_of_record(record.payload).value_or(core::Uuid{});
        step.record_id = record.id;
        step.lease_end = terms.expires_at;
        steps.add(step);
    }

    Growing<ClaimedStep> steps;
};

struct StepClaim
{
    Instances instances;
    TransitionLog log;
    Growing<RecordChange> records;
    MoveNote note;
    int64_t lease_us; // 0: not given
    int64_t token;
};

Datum copy_of(TupleTableSlot *slot, int column)
{
    bool null = false;
    const Datum value = slot_getattr(slot, column, &null);
    return null ? 0 : PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
}

bool is_claimable(const StepHead &head, int64_t record_id)
{
    // In progress with its record in line: the lease was given back in the queue, past the workflow.
    return head.record_id == record_id &&
           (head.state == core::StepState::enqueued || head.state == core::StepState::waiting_for_retry ||
            head.state == core::StepState::in_progress);
}

void take_step(StepClaim &claim, ClaimedStep &step, TaskDelta &delta)
{
    const size_t noted = claim.log.transitions.count;
    core::StepState from{};
    const auto decide = [&](const StepHead &head, TupleTableSlot *slot, pg::RowValues &change) {
        forget_from(claim.log, noted);
        step.taken = is_claimable(head, step.record_id);
        if (!step.taken)
            return false;
        from = head.state;
        if (head.state == core::StepState::in_progress) { // it is begun anew
            move_step(claim.log, claim.instances, head, core::StepState::pending, core::Walk::again,
                      claim.note, change);
            StepHead again = head;
            again.state = core::StepState::pending;
            again.last_transition++;
            move_step(claim.log, claim.instances, again, core::StepState::in_progress, core::Walk::forward,
                      claim.note, change);
        } else {
            move_step(claim.log, claim.instances, head, core::StepState::in_progress, core::Walk::forward,
                      claim.note, change);
        }
        step.named_step_uuid = head.named_step_uuid;
        step.attempts = head.attempts + 1;
        step.total_parents = head.total_parents;
        step.name = copy_of(slot, kStepName);
        step.inputs = copy_of(slot, kStepInputs);
        step.checkpoint = copy_of(slot, kStepCheckpoint);
        change.set(kStepAttempts, Int32GetDatum(step.attempts));
        change.set(kStepLastAttemptedAt, TimestampTzGetDatum(claim.instances.now));
        change.set_null(kStepNextRetryAt);
        change.set_null(kStepBackoffRequestSeconds);
        change.set(kStepProcessor, claim.note.processor);
        return true;
    };
    if (core::step_number(step.uuid) == 0 || !change_step_if_there(claim.instances, step.uuid, decide))
        step.taken = false;
    if (step.taken)
        delta.move(from, core::StepState::in_progress);
    else
        claim.records.add({step.record_id, step.uuid, RecordFate::dropped, false, 0, 0, 0});
}

// The lease is the step's own where it has a timeout; its record has the claim's.
void adjust_lease(StepClaim &claim, ClaimedStep &step, const StepTemplate &named)
{
    if (named.timeout_seconds == 0)
        return;
    const int64_t timeout_us = int64_t{named.timeout_seconds} * USECS_PER_SEC;
    const int64_t lease_us = claim.lease_us == 0 ? timeout_us : std::min(claim.lease_us, timeout_us);
    const TimestampTz end = claim.instances.now + lease_us;
    if (end == step.lease_end)
        return;
    step.lease_end = end;
    claim.records.add({step.record_id, step.uuid, RecordFate::lease, true, claim.token, end, 0});
}

// What the rows of one task's steps have in common.
struct TaskPart
{
    const Template *definition;
    Datum task_uuid;
    Datum context;
    Datum correlation_id;
};

Datum text_datum(const char *text)
{
    return CStringGetTextDatum(text);
}

void return_row(StepClaim &claim, pg::ResultSet &result, const TaskPart &task, const ClaimedStep &step,
                const StepTemplate &named)
{
    Datum values[13] = {};
    bool nulls[13] = {};
    const auto set_or_null = [&](int i, Datum value) {
        values[i] = value;
        nulls[i] = value == 0;
    };
    values[0] = PointerGetDatum(&step.uuid);
    values[1] = task.task_uuid;
    values[2] = text_datum(task.definition->name);
    values[3] = step.name != 0 ? step.name : text_datum(named.name);
    values[4] = text_datum(named.handler);
    values[5] = Int32GetDatum(step.attempts);
    set_or_null(6, step.inputs != 0 ? step.inputs : PointerGetDatum(named.inputs));
    values[7] = task.context;
    set_or_null(8,
                step.total_parents > kMaxInlinedParents
                    ? 0
                    : dependency_results(claim.instances, *task.definition, step.uuid, step.total_parents));
    set_or_null(9, step.checkpoint);
    values[10] = task.correlation_id;
    values[11] = Int64GetDatum(claim.token);
    values[12] = TimestampTzGetDatum(step.lease_end);
    result.add(values, nulls);
    if (!nulls[8]) // it may be large, and there may be many
        pfree(DatumGetPointer(values[8]));
}

// Reads what the workers get of a task, and moves it on where the claim makes a difference to it.
TaskPart look_at_task(StepClaim &claim, const core::Uuid &task, const TaskDelta &delta)
{
    pg::DirectTable *table = find_task(claim.instances, task);
    if (table == nullptr)
        unknown_task(task);
    const TaskHead head = task_head(table->read_slot);
    TaskPart part{};
    part.task_uuid = datum_of(task);
    part.context = copy_of(table->read_slot, kTaskContext);
    bool null = false;
    part.correlation_id = datum_of(uuid_of(slot_getattr(table->read_slot, kTaskCorrelationId, &null)));
    if (!delta.is_nothing() || head.state != core::TaskState::steps_in_process)
        (void)apply_delta(claim.instances, claim.log, task, delta, core::Walk::forward, claim.note);
    part.definition = &template_with_id(head.named_task_uuid);
    return part;
}

// The task's partition is being retired. Where the task is not finished it is going to come back, and its
// steps and records must be there.
void give_back_without_task(StepClaim &claim, std::span<const ClaimedStep> steps)
{
    for (const ClaimedStep &step : steps) {
        const bool there =
            core::step_number(step.uuid) != 0 && find_step(claim.instances, step.uuid) != nullptr;
        claim.records.add({step.record_id, step.uuid, there ? RecordFate::retry : RecordFate::dropped, false,
                           0, claim.instances.now + USECS_PER_SEC, 0});
    }
}

// The claimed steps of one task.
void take_task(StepClaim &claim, std::span<ClaimedStep> steps, pg::ResultSet &result)
{
    TaskDelta delta;
    bool any = false;
    if (find_task(claim.instances, core::task_of(steps[0].uuid)) == nullptr) {
        give_back_without_task(claim, steps);
        return;
    }
    for (ClaimedStep &step : steps) {
        take_step(claim, step, delta);
        any = any || step.taken;
    }
    if (!any)
        return;
    const TaskPart task = look_at_task(claim, core::task_of(steps[0].uuid), delta);
    for (ClaimedStep &step : steps) {
        if (!step.taken)
            continue;
        const StepTemplate *named = find_step(*task.definition, step.named_step_uuid);
        if (named == nullptr)
            elog(ERROR, "workflow step %s is not in its task's template", text_of(step.uuid));
        adjust_lease(claim, step, *named);
        return_row(claim, result, task, step, *named);
    }
}

// Claims records from the flows, beginning with another one each time, so that none is left behind.
void claim_from_flows(std::span<const int32_t> flows, int64_t wanted, queue::ClaimTerms &terms,
                      std::optional<int64_t> lease_us, StepSink &sink)
{
    static uint32_t turn = 0;
    const size_t first = flows.empty() ? 0 : turn++ % flows.size();
    for (size_t i = 0; i < flows.size() && wanted > 0; i++) {
        const auto flow = queue::flow_with_id(flows[(first + i) % flows.size()]);
        if (!flow)
            continue;
        if (!lease_us)
            terms.expires_at = queue::lease_end(terms.now, flow->lease_us);
        wanted -= queue::claim_records(*flow, wanted, terms, sink);
    }
}

// Takes the steps of the records that were claimed; returns how many there were. All others were stale.
int64_t take_claimed(StepSink &sink, const queue::ClaimTerms &terms, std::optional<int64_t> lease_us,
                     pg::ResultSet &result)
{
    std::sort(sink.steps.begin(), sink.steps.end(),
              [](const ClaimedStep &a, const ClaimedStep &b) { return a.uuid < b.uuid; });
    StepClaim claim{};
    claim.lease_us = lease_us.value_or(0);
    claim.token = terms.token;
    claim.note.processor = terms.instance;
    begin_instances(claim.instances);
    for (size_t at = 0; at < sink.steps.count;) {
        size_t end = at + 1;
        while (end < sink.steps.count &&
               core::task_of(sink.steps[end].uuid) == core::task_of(sink.steps[at].uuid))
            end++;
        take_task(claim, sink.steps.all().subspan(at, end - at), result);
        at = end;
    }
    write_transitions(claim.instances, claim.log);
    end_instances(claim.instances);
    change_step_records(claim.instances.now, claim.records.all());
    return std::count_if(sink.steps.begin(), sink.steps.end(),
                         [](const ClaimedStep &step) { return step.taken; });
}

} // namespace

TASKER_FUNCTION(claim_steps)
{
    PreventCommandIfReadOnly("tasker.claim_steps()");
    const std::string_view space = args.name(0, "namespace");
    const int64_t batch = args.i32(1, "batch_size");
    if (batch < 1)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"batch_size\" must be at least 1");
    (void)args.optional_name(2, "worker");
    const std::optional<int64_t> lease = args.optional_duration_us(3, "lease");
    if (lease && *lease == 0)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"lease\" must be positive");
    std::optional<std::span<Datum>> handlers;
    if (!args.is_null(4))
        handlers = args.array(4, "handlers", TEXTOID);

    pg::ResultSet result(args.call());
    const Growing<int32_t> flows = flows_of_handlers(space, handlers);
    std::optional<Datum> worker;
    if (!args.is_null(2))
        worker = args.datum(2);
    queue::ClaimTerms terms = queue::claim_terms(worker, lease.value_or(USECS_PER_HOUR));
    // Where all were stale there may be steps behind them. Where some were not, the rest has to wait for the
    // next call: rows are locked now, and others would have to be locked in the order of their uuids.
    for (bool look = true; look;) {
        StepSink sink;
        claim_from_flows(flows.all(), batch, terms, lease, sink);
        look = sink.steps.count > 0 && take_claimed(sink, terms, lease, result) == 0;
    }
    return 0;
}

} // namespace tasker::workflow
