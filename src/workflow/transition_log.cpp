#include "workflow/transition_log.hpp"

#include "workflow/counts.hpp"
#include "workflow/events.hpp"

namespace tasker::workflow {
namespace {

enum TransitionColumn : int
{
    kUuid = 1,
    kTxid,
    kCreatedAt,
    kSortKey,
    kFromState,
    kToState,
    kProcessorUuid,
    kProcessor,
    kMetadata,
};

// Rows go to multi-insert in pieces: enough for one WAL record a page, small enough to be interrupted.
constexpr size_t kPiece = 1000;

template <class State>
void add_path(TransitionLog &log, const core::Uuid &uuid, int32_t last, State from,
              const core::StatePath<State> &path, const MoveNote &note)
{
    for (int i = 0; i < path.count; i++) {
        const State to = path.hops[static_cast<size_t>(i)];
        const bool at_end = i == path.count - 1;
        log.transitions.add({uuid, ++last, static_cast<char>(from), static_cast<char>(to),
                             at_end ? note : MoveNote{note.processor, note.processor_uuid, 0}});
        from = to;
    }
}

[[noreturn]] void no_way(const char *what, const core::Uuid &uuid, std::string_view from, std::string_view to)
{
    ereport(
        ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
        errmsg("%s %s cannot go from state \"%s\" to \"%s\"", what, text_of(uuid), from.data(), to.data()));
    pg_unreachable();
}

HeapTuple row_of(pg::DirectTable *table, const Transition &transition, int64_t txid, TimestampTz now)
{
    pg::RowValues row;
    row.set(kUuid, PointerGetDatum(&transition.uuid));
    row.set(kTxid, Int64GetDatum(txid));
    row.set(kCreatedAt, TimestampTzGetDatum(now));
    row.set(kSortKey, Int32GetDatum(transition.sort_key));
    if (transition.from != 0)
        row.set(kFromState, CharGetDatum(transition.from));
    row.set(kToState, CharGetDatum(transition.to));
    if (transition.note.processor_uuid != 0)
        row.set(kProcessorUuid, transition.note.processor_uuid);
    if (transition.note.processor != 0)
        row.set(kProcessor, transition.note.processor);
    if (transition.note.metadata != 0)
        row.set(kMetadata, transition.note.metadata);
    return pg::form_row(table, row);
}

bool is_of_task(const Transition &transition)
{
    return core::step_number(transition.uuid) == 0;
}

void count(const Transition &transition)
{
    if (is_of_task(transition)) {
        std::optional<core::TaskState> from;
        if (transition.from != 0)
            from = static_cast<core::TaskState>(transition.from);
        note_task_states(transition.uuid, from, static_cast<core::TaskState>(transition.to), 1);
        return;
    }
    std::optional<core::StepState> from;
    if (transition.from != 0)
        from = static_cast<core::StepState>(transition.from);
    note_step_states(transition.uuid, from, static_cast<core::StepState>(transition.to), 1);
}

// The transitions of tasks, or those of steps.
void write_kind(Instances &instances, TransitionLog &log, Table table)
{
    const bool of_tasks = table == Table::task_transition;
    Growing<HeapTuple> rows;
    pg::DirectTable *open = nullptr;
    const auto flush = [&] {
        if (rows.count > 0)
            pg::insert_rows(open, rows.all());
        rows.clear();
    };
    for (const Transition &transition : log.transitions) {
        if (is_of_task(transition) != of_tasks)
            continue;
        pg::DirectTable *next = table_for_new(instances, table, transition.uuid);
        if (next != open || rows.count == kPiece)
            flush();
        open = next;
        rows.add(row_of(open, transition, transition_txid(), instances.now));
    }
    flush();
}

} // namespace

void note_created(TransitionLog &log, const core::Uuid &uuid, core::TaskState to)
{
    log.transitions.add({uuid, 1, 0, static_cast<char>(to), {}});
}

void note_created(TransitionLog &log, const core::Uuid &uuid, core::StepState to)
{
    log.transitions.add({uuid, 1, 0, static_cast<char>(to), {}});
}

void move_step(TransitionLog &log, const Instances &instances, const StepHead &head, core::StepState to,
               core::Walk walk, const MoveNote &note, pg::RowValues &change)
{
    if (head.state == to)
        return;
    const core::StatePath<core::StepState> path = core::shortest_path(head.state, to, walk);
    if (path.count == 0)
        no_way("workflow step", head.uuid, core::state_name(head.state), core::state_name(to));
    add_path(log, head.uuid, head.last_transition, head.state, path, note);
    change.set(kStepCurrentState, CharGetDatum(static_cast<char>(to)));
    change.set(kStepStateEnteredAt, TimestampTzGetDatum(instances.now));
    change.set(kStepLastTransition, Int32GetDatum(head.last_transition + path.count));
}

void move_task(TransitionLog &log, const Instances &instances, const TaskHead &head, core::TaskState to,
               core::Walk walk, const MoveNote &note, pg::RowValues &change)
{
    change.set(kTaskUpdatedAt, TimestampTzGetDatum(instances.now));
    if (head.state == to)
        return;
    const core::StatePath<core::TaskState> path = core::shortest_path(head.state, to, walk);
    if (path.count == 0)
        no_way("task", head.uuid, core::state_name(head.state), core::state_name(to));
    add_path(log, head.uuid, head.last_transition, head.state, path, note);
    change.set(kTaskCurrentState, CharGetDatum(static_cast<char>(to)));
    change.set(kTaskStateEnteredAt, TimestampTzGetDatum(instances.now));
    change.set(kTaskLastTransition, Int32GetDatum(head.last_transition + path.count));
}

void write_transitions(Instances &instances, TransitionLog &log)
{
    if (log.transitions.count == 0)
        return;
    write_kind(instances, log, Table::step_transition);
    write_kind(instances, log, Table::task_transition);
    for (const Transition &transition : log.transitions)
        count(transition);
    note_transitions_written(log.transitions.count);
    log.transitions.clear();
}

} // namespace tasker::workflow
