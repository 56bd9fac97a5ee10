#include "workflow/events.hpp"

#include "core/task_id.hpp"
#include "core/workflow_states.hpp"
#include "workflow/ids.hpp"

extern "C" {
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"
}

namespace tasker::workflow {
namespace {

stream::LogWriter writer(kTransitionQueue);

// Columns of both logs.
enum TransitionColumn : AttrNumber
{
    kUuid = 1,
    kTxid,
    kCreatedAt,
    kSortKey,
    kFromState,
    kToState,
    kProcessorUuid,
    kProcessor,
    kMetadata
};

enum class Kind
{
    task,
    step
};

// Plain C from here on: may ereport. Events are made one by one, in memory that is freed with each.

class Transition
{
  public:
    Transition(TupleTableSlot *row, Kind kind) : row_(row), kind_(kind) { slot_getsomeattrs(row, kMetadata); }

    bool has(TransitionColumn column) const { return !row_->tts_isnull[column - 1]; }
    Datum value(TransitionColumn column) const { return row_->tts_values[column - 1]; }
    core::Uuid uuid() const { return uuid_of(value(kUuid)); }
    core::Uuid task() const { return core::step_uuid(uuid(), 0); }

    std::string_view state(TransitionColumn column) const
    {
        const char state = DatumGetChar(value(column));
        return kind_ == Kind::task ? core::state_name(static_cast<core::TaskState>(state))
                                   : core::state_name(static_cast<core::StepState>(state));
    }

    // The creation of tasks, what happened to steps, what happened to tasks.
    int64_t order() const
    {
        const int64_t part = kind_ == Kind::step ? 1 : has(kFromState) ? 2 : 0;
        return part << 32 | static_cast<int64_t>(DatumGetInt32(value(kSortKey)));
    }

  private:
    TupleTableSlot *row_;
    Kind kind_;
};

class Json
{
  public:
    Json() { initStringInfo(&text_); }

    void add(const char *key, const char *value)
    {
        begin(key);
        if (value == nullptr)
            appendStringInfoString(&text_, "null");
        else
            escape_json(&text_, value);
    }
    // A value that is JSON already.
    void add_json(const char *key, const char *json)
    {
        begin(key);
        appendStringInfoString(&text_, json);
    }
    Datum finish()
    {
        appendStringInfoChar(&text_, '}');
        return PointerGetDatum(cstring_to_text_with_len(text_.data, text_.len));
    }

  private:
    void begin(const char *key)
    {
        appendStringInfo(&text_, text_.len == 0 ? "{\"%s\": " : ", \"%s\": ", key);
    }

    StringInfoData text_;
};

const char *c_string(std::string_view text)
{
    return pnstrdup(text.data(), text.size());
}

// In UTC, whatever the session's time zone is: the same event has the same data for everybody.
const char *iso_time(Datum time)
{
    const int utc = 0;
    auto *text = static_cast<char *>(palloc(MAXDATELEN + 1));
    return JsonEncodeDateTime(text, time, TIMESTAMPTZOID, &utc);
}

Datum data_of(const Transition &row, const char *task, const char *step)
{
    Json json;
    json.add("task_uuid", task);
    json.add("workflow_step_uuid", step);
    json.add("from_state", row.has(kFromState) ? c_string(row.state(kFromState)) : nullptr);
    json.add("to_state", c_string(row.state(kToState)));
    json.add_json("sort_key", psprintf("%d", DatumGetInt32(row.value(kSortKey))));
    json.add("processor", row.has(kProcessor) ? TextDatumGetCString(row.value(kProcessor)) : nullptr);
    json.add("processor_uuid",
             row.has(kProcessorUuid) ? text_of(uuid_of(row.value(kProcessorUuid))) : nullptr);
    if (row.has(kMetadata)) {
        Jsonb *metadata = DatumGetJsonbP(row.value(kMetadata));
        json.add_json("metadata", JsonbToCString(nullptr, &metadata->root, VARSIZE(metadata)));
    } else {
        json.add_json("metadata", "null");
    }
    json.add("created_at", iso_time(row.value(kCreatedAt)));
    return json.finish();
}

void make_event(const Transition &row, Kind kind, stream::LogEvent &event)
{
    enum Text
    {
        kType,
        kData,
        kTask,
        kStep,
        kUsed
    };
    const char *task = text_of(row.task());
    const char *step = kind == Kind::step ? text_of(row.uuid()) : nullptr;
    event.time = DatumGetTimestampTz(row.value(kCreatedAt));
    std::fill(std::begin(event.null), std::end(event.null), true);
    std::fill(event.null, event.null + kUsed, false);
    event.text[kType] = CStringGetTextDatum(
        psprintf("%s.%s", kind == Kind::task ? "task" : "step", c_string(row.state(kToState))));
    event.text[kData] = data_of(row, task, step);
    event.text[kTask] = CStringGetTextDatum(task);
    event.null[kStep] = step == nullptr;
    if (step != nullptr)
        event.text[kStep] = CStringGetTextDatum(step);
}

template <Kind kind> int64_t order(TupleTableSlot *row)
{
    return Transition(row, kind).order();
}

template <Kind kind> void map(TupleTableSlot *row, stream::LogEvent &event)
{
    make_event(Transition(row, kind), kind, event);
}

constexpr stream::LogMapper kLogs[] = {
    {"task_transition", order<Kind::task>, map<Kind::task>},
    {"workflow_step_transition", order<Kind::step>, map<Kind::step>},
};

} // namespace

void declare_transition_queue()
{
    stream::register_log_queue(kTransitionQueue, kLogs);
}

void note_transitions_written(size_t transitions)
{
    writer.note(transitions);
}

} // namespace tasker::workflow
