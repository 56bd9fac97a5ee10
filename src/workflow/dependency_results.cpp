#include "workflow/dependency_results.hpp"

#include "pg/function.hpp"
#include "workflow/edges.hpp"

extern "C" {
#include "access/detoast.h"
}

namespace tasker::workflow {
namespace {

// An object of 256 MB cannot be made, and a claim that fails would be made again and again.
constexpr int64_t kMaxInlinedBytes = 64 << 20;

void push_key(JsonbParseState **state, const char *name)
{
    JsonbValue key;
    key.type = jbvString;
    key.val.string.val = const_cast<char *>(name);
    key.val.string.len = static_cast<int>(strlen(name));
    (void)pushJsonbValue(state, WJB_KEY, &key);
}

void push_value(JsonbParseState **state, Datum value, bool null)
{
    JsonbValue item;
    if (null) {
        item.type = jbvNull;
    } else {
        Jsonb *json = DatumGetJsonbP(value);
        if (!JB_ROOT_IS_SCALAR(json) || !JsonbExtractScalar(&json->root, &item)) {
            item.type = jbvBinary;
            item.val.binary.data = &json->root;
            item.val.binary.len = static_cast<int>(VARSIZE(json) - VARHDRSZ);
        }
    }
    (void)pushJsonbValue(state, WJB_VALUE, &item);
}

} // namespace

const char *name_of_step(TupleTableSlot *slot, const Template &definition)
{
    bool null = false;
    const Datum own = slot_getattr(slot, kStepName, &null);
    if (!null)
        return TextDatumGetCString(own);
    const StepTemplate *named = find_step(definition, uuid_of(slot_getattr(slot, kStepNamedStep, &null)));
    if (named == nullptr)
        elog(ERROR, "a workflow step is not in its task's template");
    return named->name;
}

Datum dependency_results(Instances &instances, const Template &definition, const core::Uuid &step,
                         int32_t total_parents)
{
    if (total_parents == 0)
        return 0;
    Growing<core::Uuid> parents;
    find_parents(instances, step, parents);
    int64_t bytes = 0;
    JsonbParseState *state = nullptr;
    (void)pushJsonbValue(&state, WJB_BEGIN_OBJECT, nullptr);
    for (const core::Uuid &parent : parents) {
        pg::DirectTable *table = find_step(instances, parent);
        if (table == nullptr)
            continue;
        push_key(&state, name_of_step(table->read_slot, definition));
        bool null = false;
        const Datum results = slot_getattr(table->read_slot, kStepResults, &null);
        bytes += null ? 0 : static_cast<int64_t>(toast_raw_datum_size(results));
        if (bytes > kMaxInlinedBytes)
            return 0;
        push_value(&state, results, null);
    }
    return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, nullptr)));
}

TASKER_FUNCTION(step_results)
{
    if (args.is_null(0))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"step_uuid\" must not be null");
    const core::Uuid step = uuid_of(args.datum(0));
    pg::ResultSet result(args.call());
    Instances instances;
    begin_instances(instances, AccessShareLock);
    if (core::step_number(step) == 0 || find_step(instances, step) == nullptr)
        unknown_step(step);
    pg::DirectTable *table = find_task(instances, core::task_of(step));
    if (table == nullptr)
        unknown_task(core::task_of(step));
    const Template &definition = template_with_id(task_head(table->read_slot).named_task_uuid);
    Growing<core::Uuid> parents;
    find_parents(instances, step, parents);
    for (const core::Uuid &parent : parents) {
        table = find_step(instances, parent);
        if (table == nullptr || !core::satisfies_children(step_head(table->read_slot).state))
            continue;
        Datum values[3] = {CStringGetTextDatum(name_of_step(table->read_slot, definition)),
                           PointerGetDatum(&parent), 0};
        bool nulls[3] = {};
        values[2] = slot_getattr(table->read_slot, kStepResults, &nulls[2]);
        result.add(values, nulls);
    }
    end_instances(instances);
    return 0;
}

} // namespace tasker::workflow
