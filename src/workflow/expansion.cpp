#include "workflow/expansion.hpp"

#include "workflow/edges.hpp"

extern "C" {
#include "common/hashfn.h"
#include "utils/uuid.h"
}

namespace tasker::workflow {
namespace {

// A step that is in the task: it exists, or is going to.
struct Member
{
    int32_t named; // index in the template
    core::Uuid uuid;
    bool finished; // nothing that it creates is still to come, and its children need not wait for it
    bool done;
    bool waits;       // for its parents, so it may get more of them
    int32_t new_step; // index in the expansion, or -1
};

// What the task's steps are called, of those that were given a name of their own.
struct GivenName
{
    char name[kMaxNameBytes + 16]; // with a number
};

struct Planner
{
    const TaskHead &task;
    const Template &definition;
    const core::Uuid own;
    int32_t own_named;
    Expansion &expansion;
    Growing<Member> members = {};
    int32_t *first = nullptr; // of each template step: a member, or -1; the others follow by next
    Growing<int32_t> next = {};
    HTAB *given_names = nullptr;
};

int32_t index_of(const Template &definition, const StepTemplate *step)
{
    return static_cast<int32_t>(step - definition.steps);
}

void add_member(Planner &planner, const Member &member)
{
    const auto at = static_cast<int32_t>(planner.members.count);
    planner.members.add(member);
    planner.next.add(planner.first[member.named]);
    planner.first[member.named] = at;
}

// False where a step is called so already.
bool take_name(Planner &planner, const char *name)
{
    bool found = false;
    (void)hash_search(planner.given_names, name, HASH_ENTER, &found);
    return !found;
}

void take_given_name(Planner &planner, TupleTableSlot *slot)
{
    bool null = false;
    const Datum name = slot_getattr(slot, kStepName, &null);
    if (!null)
        (void)take_name(planner, TextDatumGetCString(name));
}

// All steps that the task has.
void read_members(Instances &instances, Planner &planner)
{
    const int32_t steps = planner.definition.step_count;
    planner.first = static_cast<int32_t *>(palloc(sizeof(int32_t) * static_cast<Size>(steps)));
    std::fill(planner.first, planner.first + steps, -1);
    HASHCTL control{};
    control.keysize = sizeof(GivenName);
    control.entrysize = sizeof(GivenName);
    control.hcxt = CurrentMemoryContext;
    planner.given_names =
        hash_create("tasker names of a task", 64, &control, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
    pg::DirectTable *table = find_table(instances, Table::step, planner.task.uuid);
    if (table == nullptr)
        unknown_task(planner.task.uuid);
    if (table->scan == nullptr)
        pg::begin_key_scan(table, GetActiveSnapshot());
    const core::Uuid last = core::step_uuid(planner.task.uuid, core::kMaxStepNumber);
    pg::seek_range(table, UUIDPGetDatum(reinterpret_cast<const pg_uuid_t *>(&planner.task.uuid)),
                   UUIDPGetDatum(reinterpret_cast<const pg_uuid_t *>(&last)));
    while (pg::next_in_range(table)) {
        const StepHead head = step_head(table->read_slot);
        const StepTemplate *step = find_step(planner.definition, head.named_step_uuid);
        if (step == nullptr)
            elog(ERROR, "workflow step %s is not in its task's template", text_of(head.uuid));
        const bool own = head.uuid == planner.own;
        const bool done = own || core::satisfies_children(head.state);
        add_member(planner,
                   {index_of(planner.definition, step), head.uuid, done || core::is_terminal(head.state),
                    done, head.state == core::StepState::pending, -1});
        take_given_name(planner, table->read_slot);
    }
}

bool exists(const Planner &planner, int32_t named)
{
    return planner.first[named] >= 0;
}

bool creates(const StepTemplate &step)
{
    return step.kind == StepKind::decision || step.kind == StepKind::batch;
}

// Is the step created only when a completion names it?
bool is_chosen(const Planner &planner, const StepTemplate &step)
{
    for (int32_t p = 0; p < step.parent_count; p++) {
        if (creates(planner.definition.steps[step.parents[p]]))
            return step.kind != StepKind::deferred;
    }
    return false;
}

void add_edge(Planner &planner, const Member &parent, const core::Uuid &child, int32_t new_step)
{
    NewStep &step = planner.expansion.steps[static_cast<size_t>(new_step)];
    planner.expansion.edges.add({parent.uuid, child});
    step.total_parents++;
    if (parent.new_step >= 0)
        step.remaining_parents++;
    else if (!parent.done)
        planner.expansion.held.add({parent.uuid, new_step});
}

// Edges from every step of the task that stands for the template step.
int32_t add_edges_from(Planner &planner, int32_t named, const core::Uuid &child, int32_t new_step)
{
    int32_t edges = 0;
    for (int32_t at = planner.first[named]; at >= 0; at = planner.next[static_cast<size_t>(at)]) {
        add_edge(planner, planner.members[static_cast<size_t>(at)], child, new_step);
        edges++;
    }
    return edges;
}

// Finds the decisions that are still to come and may create the template step, which does not exist. `seen`
// has the template steps that need not be looked at: the ones that wait depend on them anyway.
void find_awaited(Planner &planner, int32_t named, Growing<int32_t> &seen, Growing<int32_t> &found)
{
    if (std::find(seen.begin(), seen.end(), named) != seen.end())
        return;
    seen.add(named);
    const StepTemplate &step = planner.definition.steps[named];
    for (int32_t p = 0; p < step.parent_count; p++) {
        const int32_t parent = step.parents[p];
        if (!exists(planner, parent)) {
            find_awaited(planner, parent, seen, found);
            continue;
        }
        if (!creates(planner.definition.steps[parent]) ||
            std::find(seen.begin(), seen.end(), parent) != seen.end())
            continue;
        seen.add(parent);
        for (int32_t at = planner.first[parent]; at >= 0; at = planner.next[static_cast<size_t>(at)]) {
            if (!planner.members[static_cast<size_t>(at)].finished)
                found.add(at);
        }
    }
}

// The decisions that a deferred step waits for because they may create one of its declared parents.
Growing<int32_t> decisions_awaited_by(Planner &planner, const StepTemplate &step)
{
    Growing<int32_t> seen;
    Growing<int32_t> found;
    for (int32_t p = 0; p < step.parent_count; p++) {
        if (exists(planner, step.parents[p]))
            seen.add(step.parents[p]);
    }
    for (int32_t p = 0; p < step.parent_count; p++) {
        if (!exists(planner, step.parents[p]))
            find_awaited(planner, step.parents[p], seen, found);
    }
    return found;
}

int32_t add_step(Planner &planner, int32_t named, Datum name, Datum inputs)
{
    const auto number = static_cast<uint32_t>(planner.expansion.next_step_number++);
    const auto at = static_cast<int32_t>(planner.expansion.steps.count);
    const core::Uuid uuid = core::step_uuid(planner.task.uuid, number);
    planner.expansion.steps.add(
        {uuid, &planner.definition.steps[named], planner.task.priority, 0, 0, name, inputs});
    return at;
}

void make_member(Planner &planner, int32_t named, int32_t new_step)
{
    const core::Uuid uuid = planner.expansion.steps[static_cast<size_t>(new_step)].uuid;
    add_member(planner, {named, uuid, false, false, true, new_step});
}

// A step that the completion has named.
struct Choice
{
    int32_t named;
    Datum name;   // text; 0: the template's
    Datum inputs; // jsonb; 0: the template's
};

[[noreturn]] void misfit(const Planner &planner, const char *detail)
{
    ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
            errmsg("argument \"create_steps\" does not fit step \"%s\"",
                   planner.definition.steps[planner.own_named].name),
            errdetail("%s", detail),
            errhint("It is an array of the names of children, or of objects with \"name\", and if need be "
                    "\"as\" and \"inputs\"."));
    pg_unreachable();
}

char *string_of(const JsonbValue &value)
{
    return pnstrdup(value.val.string.val, static_cast<Size>(value.val.string.len));
}

void choose(Planner &planner, const char *name, Datum as, Datum inputs, Growing<Choice> &choices)
{
    const StepTemplate &own = planner.definition.steps[planner.own_named];
    const StepTemplate *step = find_step(planner.definition, name);
    if (step == nullptr)
        misfit(planner, psprintf("The task has no step \"%s\".", name));
    const int32_t named = index_of(planner.definition, step);
    if (std::find(own.children, own.children + own.child_count, named) == own.children + own.child_count)
        misfit(planner, psprintf("Step \"%s\" is no child of it.", name));
    if (!is_chosen(planner, *step))
        misfit(planner,
               psprintf("Step \"%s\" is deferred: it is created with the steps it waits for.", name));
    for (size_t i = 0; own.kind == StepKind::decision && i < choices.count; i++) {
        if (choices[i].named == named)
            misfit(planner, psprintf("Step \"%s\" is named more than once.", name));
    }
    choices.add({named, as, inputs});
}

void read_choice(Planner &planner, JsonbContainer *object, Growing<Choice> &choices)
{
    const char *name = nullptr;
    Datum as = 0;
    Datum inputs = 0;
    JsonbIterator *it = JsonbIteratorInit(object);
    JsonbValue value;
    JsonbIteratorToken token = JsonbIteratorNext(&it, &value, true);
    while ((token = JsonbIteratorNext(&it, &value, true)) == WJB_KEY) {
        const char *key = string_of(value);
        (void)JsonbIteratorNext(&it, &value, true);
        const bool is_string = value.type == jbvString;
        if (strcmp(key, "name") == 0 && is_string) {
            name = string_of(value);
        } else if (strcmp(key, "as") == 0 && is_string) {
            as = CStringGetTextDatum(string_of(value));
            if (value.val.string.len == 0 || value.val.string.len > kMaxNameBytes)
                misfit(planner, "\"as\" must have 1 to 128 bytes.");
        } else if (strcmp(key, "inputs") == 0) {
            inputs = JsonbPGetDatum(JsonbValueToJsonb(&value));
        } else {
            misfit(planner, psprintf("Key \"%s\" is unknown, or not of the right type.", key));
        }
    }
    if (name == nullptr)
        misfit(planner, "\"name\" is missing.");
    choose(planner, name, as, inputs, choices);
}

void read_choices(Planner &planner, Datum create_steps, Growing<Choice> &choices)
{
    Jsonb *json = DatumGetJsonbP(create_steps);
    if (!JB_ROOT_IS_ARRAY(json) || JB_ROOT_IS_SCALAR(json))
        misfit(planner, "It is no array.");
    const StepTemplate &own = planner.definition.steps[planner.own_named];
    if (!creates(own) && JB_ROOT_COUNT(json) > 0)
        misfit(planner, "The step is neither a decision nor a batch step.");
    if (JB_ROOT_COUNT(json) > kMaxTemplateSteps)
        misfit(planner, psprintf("It names more than %d steps.", kMaxTemplateSteps));
    JsonbIterator *it = JsonbIteratorInit(&json->root);
    JsonbValue value;
    JsonbIteratorToken token = JsonbIteratorNext(&it, &value, true);
    while ((token = JsonbIteratorNext(&it, &value, true)) == WJB_ELEM) {
        CHECK_FOR_INTERRUPTS();
        if (value.type == jbvString)
            choose(planner, string_of(value), 0, 0, choices);
        else if (value.type == jbvBinary && JsonContainerIsObject(value.val.binary.data))
            read_choice(planner, value.val.binary.data, choices);
        else
            misfit(planner, "An element is neither a name nor an object.");
    }
}

int32_t members_of(const Planner &planner, int32_t named)
{
    int32_t count = 0;
    for (int32_t at = planner.first[named]; at >= 0; at = planner.next[static_cast<size_t>(at)])
        count++;
    return count;
}

// Does a name belong to a step that is called as the template has it?
bool is_of_template(const Planner &planner, const char *name, int32_t named)
{
    const StepTemplate *step = find_step(planner.definition, name);
    return step != nullptr && (index_of(planner.definition, step) != named || exists(planner, named));
}

// By its name a step is known to those that get its results.
void require_unique_names(Planner &planner, const Growing<Choice> &choices)
{
    for (const Choice &choice : choices) {
        if (choice.name == 0)
            continue;
        const char *name = TextDatumGetCString(choice.name);
        if (is_of_template(planner, name, choice.named))
            misfit(planner, psprintf("\"%s\" is the name of another step of the task.", name));
        if (!take_name(planner, name))
            misfit(planner, psprintf("Two steps shall be called \"%s\".", name));
    }
}

// Several children of one name are numbered, where they were given no names of their own.
Datum name_of_choice(Planner &planner, const Choice &choice, bool several, int32_t &ordinal)
{
    ordinal++;
    if (choice.name != 0)
        return choice.name;
    if (!several)
        return 0;
    for (;; ordinal++) {
        const char *name = psprintf("%s_%d", planner.definition.steps[choice.named].name, ordinal);
        if (!is_of_template(planner, name, choice.named) && take_name(planner, name))
            return CStringGetTextDatum(name);
    }
}

void add_chosen_edges(Planner &planner, const StepTemplate &step, int32_t at)
{
    const core::Uuid uuid = planner.expansion.steps[static_cast<size_t>(at)].uuid;
    for (int32_t p = 0; p < step.parent_count; p++) {
        if (step.parents[p] == planner.own_named)
            add_edge(planner, {planner.own_named, planner.own, true, true, false, -1}, uuid, at);
        else if (add_edges_from(planner, step.parents[p], uuid, at) == 0)
            misfit(planner, psprintf("Step \"%s\" also depends on \"%s\", which does not exist.", step.name,
                                     planner.definition.steps[step.parents[p]].name));
    }
}

// The steps that were named: they wait for the one that named them, and for what else they are declared to.
// In topological order, so that one of them may depend on another.
void create_chosen(Planner &planner, Growing<Choice> &choices)
{
    std::stable_sort(choices.begin(), choices.end(),
                     [](const Choice &a, const Choice &b) { return a.named < b.named; });
    for (size_t from = 0; from < choices.count;) {
        const int32_t named = choices[from].named;
        const auto first_of_next =
            std::upper_bound(choices.begin() + from, choices.end(), named,
                             [](int32_t value, const Choice &choice) { return value < choice.named; });
        const auto to = static_cast<size_t>(first_of_next - choices.begin());
        int32_t ordinal = members_of(planner, named);
        const bool several = to - from > 1 || ordinal > 0;
        for (; from < to; from++) {
            CHECK_FOR_INTERRUPTS();
            const Choice &choice = choices[from];
            const int32_t at =
                add_step(planner, named, name_of_choice(planner, choice, several, ordinal), choice.inputs);
            add_chosen_edges(planner, planner.definition.steps[named], at);
            make_member(planner, named, at);
        }
    }
}

// A deferred step that exists already and still waits gets the new ones among its declared parents, and among
// the decisions that may create more of them.
void add_parents(Planner &planner, int32_t named)
{
    const StepTemplate &step = planner.definition.steps[named];
    const Growing<int32_t> awaited = decisions_awaited_by(planner, step);
    for (int32_t at = planner.first[named]; at >= 0; at = planner.next[static_cast<size_t>(at)]) {
        const Member member = planner.members[static_cast<size_t>(at)];
        if (member.new_step >= 0 || !member.waits)
            continue;
        ParentGain gain{member.uuid, 0, 0};
        const auto add_if_new = [&](int32_t parent) {
            const Member &from = planner.members[static_cast<size_t>(parent)];
            if (from.new_step < 0)
                return;
            planner.expansion.edges.add({from.uuid, member.uuid});
            gain.waiting++;
        };
        for (int32_t p = 0; p < step.parent_count; p++) {
            for (int32_t parent = planner.first[step.parents[p]]; parent >= 0;
                 parent = planner.next[static_cast<size_t>(parent)])
                add_if_new(parent);
        }
        for (const int32_t parent : awaited)
            add_if_new(parent);
        if (gain.waiting > 0)
            planner.expansion.gains.add(gain);
    }
}

// What comes after the new steps, in topological order.
void create_descendants(Planner &planner)
{
    for (int32_t named = planner.own_named + 1; named < planner.definition.step_count; named++) {
        const StepTemplate &step = planner.definition.steps[named];
        if (!step.dynamic || is_chosen(planner, step))
            continue;
        const bool deferred = step.kind == StepKind::deferred;
        if (exists(planner, named)) {
            if (deferred)
                add_parents(planner, named);
            continue;
        }
        int32_t present = 0;
        for (int32_t p = 0; p < step.parent_count; p++)
            present += exists(planner, step.parents[p]) ? 1 : 0;
        if (present == 0 || (!deferred && present < step.parent_count))
            continue;
        const int32_t at = add_step(planner, named, 0, 0);
        const core::Uuid uuid = planner.expansion.steps[static_cast<size_t>(at)].uuid;
        for (int32_t p = 0; p < step.parent_count; p++)
            (void)add_edges_from(planner, step.parents[p], uuid, at);
        if (deferred) {
            for (const int32_t decision : decisions_awaited_by(planner, step))
                add_edge(planner, planner.members[static_cast<size_t>(decision)], uuid, at);
        }
        make_member(planner, named, at);
    }
}

} // namespace

void lock_expansion(const core::Uuid &task)
{
    LOCKTAG tag;
    const uint32 hash = hash_bytes(task.bytes.data(), static_cast<int>(task.bytes.size()));
    SET_LOCKTAG_OBJECT(tag, MyDatabaseId, parent_of(Table::task), hash, 1);
    (void)LockAcquire(&tag, ExclusiveLock, false, false);
}

void plan_expansion(Instances &instances, const TaskHead &task, const Template &definition,
                    const StepHead &step, Datum create_steps, Expansion &expansion)
{
    const StepTemplate *own = find_step(definition, step.named_step_uuid);
    if (own == nullptr)
        elog(ERROR, "workflow step %s is not in its task's template", text_of(step.uuid));
    if (create_steps == 0)
        return;
    Planner planner{task, definition, step.uuid, index_of(definition, own), expansion};
    Growing<Choice> choices;
    read_choices(planner, create_steps, choices);
    if (choices.count == 0)
        return;
    read_members(instances, planner);
    require_unique_names(planner, choices);
    create_chosen(planner, choices);
    create_descendants(planner);
}

} // namespace tasker::workflow
