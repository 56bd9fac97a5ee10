#include "workflow/create.hpp"

#include "queue/shared_state.hpp"

namespace tasker::workflow {
namespace {

constexpr size_t kPiece = 1000; // rows to one multi-insert

HeapTuple row_of(pg::DirectTable *table, const Instances &instances, const NewStep &step, int64_t record_id,
                 int32_t last_transition, std::optional<TimestampTz> run_at)
{
    const bool ready = record_id != 0;
    const core::StepState state = ready ? core::StepState::enqueued : core::StepState::pending;
    pg::RowValues row;
    row.set(kStepUuid, PointerGetDatum(&step.uuid));
    row.set(kStepNamedStep, PointerGetDatum(&step.step->named_step_uuid));
    row.set(kStepRecordId, Int64GetDatum(record_id));
    row.set(kStepStateEnteredAt, TimestampTzGetDatum(instances.now));
    if (ready && run_at)
        row.set(kStepNextRetryAt, TimestampTzGetDatum(*run_at));
    row.set(kStepCurrentState, CharGetDatum(static_cast<char>(state)));
    row.set(kStepType, CharGetDatum(static_cast<char>(step.step->kind)));
    row.set(kStepRetryable, BoolGetDatum(step.step->retryable));
    row.set(kStepPriority, Int16GetDatum(priority_of(*step.step, step.priority)));
    row.set(kStepAttempts, Int32GetDatum(0));
    row.set(kStepMaxAttempts, Int32GetDatum(step.step->max_attempts));
    row.set(kStepTotalParents, Int32GetDatum(step.total_parents));
    row.set(kStepRemainingParents, Int32GetDatum(step.remaining_parents));
    row.set(kStepLastTransition, Int32GetDatum(last_transition));
    if (step.name != 0)
        row.set(kStepName, step.name);
    if (step.inputs != 0)
        row.set(kStepInputs, step.inputs);
    return pg::form_row(table, row);
}

// Notes the step's creation, and its way into the queue; returns the number of its transitions.
int32_t note_new_step(TransitionLog &log, const NewStep &step, bool ready)
{
    note_created(log, step.uuid, core::StepState::pending);
    if (!ready)
        return 1;
    log.transitions.add({step.uuid,
                         2,
                         static_cast<char>(core::StepState::pending),
                         static_cast<char>(core::StepState::enqueued),
                         {}});
    return 2;
}

HeapTuple row_of(pg::DirectTable *table, const NewEdge &edge)
{
    pg::RowValues row;
    row.set(kEdgeFrom, PointerGetDatum(&edge.from));
    row.set(kEdgeTo, PointerGetDatum(&edge.to));
    return pg::form_row(table, row);
}

// Collects rows for one partition after the other.
class Inserter
{
  public:
    Inserter(Instances &instances, Table table) : instances_(instances), table_(table) {}

    // The partition for the uuid, with room for one more row.
    pg::DirectTable *open(const core::Uuid &uuid)
    {
        pg::DirectTable *next = table_for_new(instances_, table_, uuid);
        if (next != open_ || rows_.count == kPiece)
            flush();
        open_ = next;
        return next;
    }
    void add(HeapTuple row) { rows_.add(row); }
    void flush()
    {
        if (rows_.count > 0)
            pg::insert_rows(open_, rows_.all());
        rows_.clear();
    }

  private:
    Instances &instances_;
    Table table_;
    pg::DirectTable *open_ = nullptr;
    Growing<HeapTuple> rows_;
};

} // namespace

int32_t write_steps(Instances &instances, TransitionLog &log, NewRows &rows,
                    std::optional<TimestampTz> run_at)
{
    int32_t enqueued = 0;
    int32_t held_flow = 0;
    Inserter steps(instances, Table::step);
    for (const NewStep &step : rows.steps) {
        int64_t record_id = 0;
        const bool ready = step.remaining_parents == 0;
        if (ready) {
            if (step.step->flow_id != std::exchange(held_flow, step.step->flow_id))
                (void)queue::flow_for_enqueue(step.step->flow_id);
            rows.records.add(record_of_step(step.uuid, step.step->flow_id,
                                            priority_of(*step.step, step.priority), run_at));
            record_id = rows.records[rows.records.count - 1].id;
            enqueued++;
        }
        const int32_t transitions = note_new_step(log, step, ready);
        pg::DirectTable *table = steps.open(step.uuid);
        steps.add(row_of(table, instances, step, record_id, transitions, run_at));
    }
    steps.flush();
    Inserter edges(instances, Table::edge);
    for (const NewEdge &edge : rows.edges) {
        pg::DirectTable *table = edges.open(edge.from);
        edges.add(row_of(table, edge));
    }
    edges.flush();
    rows.steps.clear();
    rows.edges.clear();
    return enqueued;
}

void write_records(NewRows &rows)
{
    if (rows.records.count > 0)
        queue::add_placed_records(queue::queue_parent(), rows.records.all());
    rows.records.clear();
}

} // namespace tasker::workflow
