// Proofs: do the workflow's tables keep its rules?
//
// Each rule is one statement over the keys of one partition of tasks; so it holds in any snapshot, also while
// others write, and costs a join or two over that time's rows. What is older than the partitions of the tasks
// is on its way out (retention.hpp), and not asked about.
//
// The rules of one kind of row are a list of conditions with what is wrong when they hold. Most rows are
// right: where there are many, one condition over all of them comes first, and the list is made for the rest.
#include "core/workflow_states.hpp"
#include "partition/bounds.hpp"
#include "partition/directory.hpp"
#include "pg/function.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "workflow/ids.hpp"
#include "workflow/sets.hpp"

namespace tasker::workflow {
namespace {

// Parameters of each rule: $1 and $2 are the least uuid of the time, and the least one after it.
// clang-format off

// What a task says of its steps, and where it rests. One that waits for its time rests in pending, with its
// first steps enqueued. What was given up, cancelled or resolved by hand leaves steps behind that are not
// done, but nothing that is still to come. $3: all states.
pg::Statement broken_tasks(R"sql(
with s as (select tasker.task_of(workflow_step_uuid) as task_uuid, count(*)::int as total,
        (count(*) filter (where current_state in ('q', 's')))::int as active,
        (count(*) filter (where current_state = 'r'))::int as retry,
        (count(*) filter (where current_state = 'e'))::int as failed,
        (count(*) filter (where current_state not in ('c', 'm')))::int as undone,
        max(pg_catalog.right(workflow_step_uuid::text, 8)) as last_number
    from tasker.workflow_step where workflow_step_uuid >= $1 and workflow_step_uuid < $2 group by 1),
t as (select task_uuid as uuid, named_task_uuid, current_state as state, priority, total_steps, active_steps,
        retry_steps, failed_steps, next_step_number
    from tasker.task where task_uuid >= $1 and task_uuid < $2),
j as (select coalesce(t.uuid, s.task_uuid) as task_uuid, t.*, coalesce(total, 0) as total,
        coalesce(active, 0) as active, coalesce(retry, 0) as retry, coalesce(failed, 0) as failed,
        coalesce(undone, 0) as undone, last_number
    from t full join s on s.task_uuid = t.uuid)
select pg_catalog.format('task %s', task_uuid), problem
from j left join tasker.named_tasks n using (named_task_uuid), lateral (values
    (uuid is null, pg_catalog.format('it does not exist, and has %s steps', total)),
    (uuid <> tasker.task_of(uuid), 'its uuid is that of a step'),
    (uuid is not null and n.named_task_uuid is null, 'its named task does not exist'),
    (pg_catalog.strpos($3, state::text) = 0, pg_catalog.format('"%s" is no state', state)),
    (priority not between 0 and 9, pg_catalog.format('its priority is %s', priority)),
    (total_steps <> total, pg_catalog.format('it has %s steps and says %s', total, total_steps)),
    (active_steps <> active, pg_catalog.format('%s of its steps are active, and it says %s', active, active_steps)),
    (retry_steps <> retry,
        pg_catalog.format('%s of its steps wait for their retry, and it says %s', retry, retry_steps)),
    (failed_steps <> failed,
        pg_catalog.format('%s of its steps are in error, and it says %s', failed, failed_steps)),
    (pg_catalog.lpad(pg_catalog.to_hex(next_step_number), 8, '0') <= last_number,
        pg_catalog.format('its next step is number %s, which it has', next_step_number)),
    (state in ('i', 'q', 'v'), 'it stands between two states'),
    (state in ('p', 's') and active = 0, 'none of its steps is active'),
    (state not in ('p', 's') and active > 0, pg_catalog.format('%s of its steps are active', active)),
    (state = 'r' and retry = 0, 'none of its steps waits for a retry'),
    (state in ('b', 'd', 'c', 'e', 'x', 'm') and active = 0 and retry > 0,
        pg_catalog.format('%s of its steps wait for their retry', retry)),
    (state = 'b' and failed = 0, 'none of its steps is in error'),
    (state = 'c' and undone > 0, pg_catalog.format('%s of its steps are not done', undone))
) rules (broken, problem) where broken)sql",
    {UUIDOID, UUIDOID, TEXTOID});

// A step that is ready was made so when all that it waits for was done; one that is being worked on may see a
// parent reset meanwhile. $3: all states.
pg::Statement broken_steps(R"sql(
with e as (select to_step_uuid as child, count(*)::int as total,
        (count(*) filter (where p.current_state not in ('c', 'm')))::int as remaining,
        (count(*) filter (where p.workflow_step_uuid is null))::int as lost
    from tasker.workflow_step_edge left join tasker.workflow_step p
        on p.workflow_step_uuid = from_step_uuid and p.workflow_step_uuid >= $1 and p.workflow_step_uuid < $2
    where from_step_uuid >= $1 and from_step_uuid < $2 group by 1),
s as (select workflow_step_uuid as uuid, named_step_uuid, current_state as state, attempts, priority, total_parents,
        remaining_parents, next_retry_at, record_id
    from tasker.workflow_step where workflow_step_uuid >= $1 and workflow_step_uuid < $2),
j as (select coalesce(s.uuid, e.child) as workflow_step_uuid, s.*, coalesce(total, 0) as total,
        coalesce(remaining, 0) as remaining, coalesce(lost, 0) as lost
    from s full join e on e.child = s.uuid)
select pg_catalog.format('step %s', workflow_step_uuid), problem
from j left join tasker.named_steps n using (named_step_uuid), lateral (values
    (uuid is null, 'it does not exist, and steps come before it'),
    (uuid = tasker.task_of(uuid), 'its uuid is that of a task'),
    (uuid is not null and n.named_step_uuid is null, 'its named step does not exist'),
    (pg_catalog.strpos($3, state::text) = 0, pg_catalog.format('"%s" is no state', state)),
    (priority not between 0 and 9, pg_catalog.format('its priority is %s', priority)),
    (attempts < 0, pg_catalog.format('its number of attempts is %s', attempts)),
    (lost > 0, pg_catalog.format('%s of the steps before it do not exist', lost)),
    (total_parents <> total, pg_catalog.format('%s steps come before it, and it says %s', total, total_parents)),
    (remaining_parents <> remaining,
        pg_catalog.format('%s of the steps before it are not done, and it says %s', remaining, remaining_parents)),
    (state in ('o', 'f'), 'it stands between two states'),
    (state in ('q', 'r') and remaining > 0,
        pg_catalog.format('%s of the steps before it are not done, and it is in state "%s"', remaining, state)),
    (state in ('q', 's', 'r') and record_id = 0, 'it has no record in the queue'),
    (state = 'r' and next_retry_at is null, 'nothing says when its retry is due')
) rules (broken, problem)
where (uuid is null or n.named_step_uuid is null or uuid = tasker.task_of(uuid) or
        pg_catalog.strpos($3, state::text) = 0 or priority not between 0 and 9 or attempts < 0 or lost > 0 or
        total_parents <> total or remaining_parents <> remaining or state in ('o', 'f') or
        state in ('q', 'r') and remaining > 0 or state in ('q', 's', 'r') and record_id = 0 or
        state = 'r' and next_retry_at is null)
    and broken)sql",
    {UUIDOID, UUIDOID, TEXTOID});

// A step that waits for parents which are done waits for good.
pg::Statement forgotten_steps(R"sql(
select pg_catalog.format('step %s', workflow_step_uuid), 'nothing that it waits for is left, and it is not enqueued'
from tasker.workflow_step s join tasker.task t
    on t.task_uuid = tasker.task_of(s.workflow_step_uuid) and t.task_uuid >= $1 and t.task_uuid < $2
where s.workflow_step_uuid >= $1 and s.workflow_step_uuid < $2 and s.current_state = 'p' and s.remaining_parents = 0
    and t.current_state not in ('c', 'e', 'x', 'm'))sql",
    {UUIDOID, UUIDOID});

// Edges stay in a task, and lead to later steps, but for a deferred step: that may wait for some which came
// into being after it. Their children are looked for by the rules of the steps.
pg::Statement broken_edges(R"sql(
select pg_catalog.format('edge from step %s to step %s', from_step_uuid, to_step_uuid), problem
from tasker.workflow_step_edge, lateral (values
    (tasker.task_of(from_step_uuid) <> tasker.task_of(to_step_uuid), 'it joins two tasks'),
    (from_step_uuid = to_step_uuid or from_step_uuid > to_step_uuid and not exists (
        select from tasker.workflow_step s where s.workflow_step_uuid = to_step_uuid and s.step_type = 'f'),
        'it leads back')
) rules (broken, problem)
where from_step_uuid >= $1 and from_step_uuid < $2
    and (from_step_uuid >= to_step_uuid or tasker.task_of(from_step_uuid) <> tasker.task_of(to_step_uuid))
    and broken)sql",
    {UUIDOID, UUIDOID});

// Records of steps that are ready, wait for their retry, or are being worked on.
pg::Statement broken_records(R"sql(
select pg_catalog.format('step %s', workflow_step_uuid), problem
from (select s.workflow_step_uuid, s.current_state as state, s.record_id, s.named_step_uuid
    from tasker.workflow_step s
    where s.workflow_step_uuid >= $1 and s.workflow_step_uuid < $2 and s.current_state in ('q', 's', 'r')
        and s.record_id <> 0) s
left join tasker.queue_record r on r.id = s.record_id
left join tasker.named_steps n on n.named_step_uuid = s.named_step_uuid, lateral (values
    (r.id is null, pg_catalog.format('its record %s does not exist', record_id)),
    (r.payload <> pg_catalog.to_jsonb(workflow_step_uuid::text),
        pg_catalog.format('its record %s is of something else', record_id)),
    (r.flow_id <> n.flow_id, pg_catalog.format('its record %s is in the flow of another handler', record_id)),
    (state in ('q', 'r') and r.status <> 'p',
        pg_catalog.format('it is ready or waits for its retry, and its record %s is not pending', record_id)),
    (state = 's' and r.status <> 'r',
        pg_catalog.format('it is in progress, and its record %s is not', record_id))
) rules (broken, problem) where broken)sql",
    {UUIDOID, UUIDOID});

// The logs: one chain for each task and step, of legal transitions, up to where it is now. $3 lists the legal
// ones, two characters each.
#define BROKEN_LOG(name, table, log, uuid) \
"with l as (select " uuid " as uuid, sort_key, from_state, to_state, " \
"        lag(to_state) over w as before, coalesce(lag(sort_key) over w, 0) + 1 as number, " \
"        lead(sort_key) over w is null as is_last " \
"    from tasker." log " where " uuid " >= $1 and " uuid " < $2 " \
"    window w as (partition by " uuid " order by sort_key)), " \
"o as (select " uuid " as uuid, current_state as state, last_transition " \
"    from tasker." table " where " uuid " >= $1 and " uuid " < $2) " \
"select pg_catalog.format('" name " %s', uuid), problem " \
"from l left join o using (uuid), lateral (values " \
"    (sort_key <> number, pg_catalog.format('transition %s is missing', number)), " \
"    (from_state is distinct from before, " \
"        pg_catalog.format('transition %s begins in \"%s\", not in \"%s\", where the one before has ended', " \
"            sort_key, from_state, before)), " \
"    (from_state is null and to_state <> 'p' or not from_state::text || to_state::text = any ($3), " \
"        pg_catalog.format('transition %s from \"%s\" to \"%s\" is not legal', sort_key, from_state, to_state)), " \
"    (is_last and state <> to_state, " \
"        pg_catalog.format('it is in state \"%s\", and its last transition leads to \"%s\"', state, to_state)), " \
"    (is_last and last_transition <> sort_key, " \
"        pg_catalog.format('its last transition is %s, and it says %s', sort_key, last_transition)) " \
") rules (broken, problem) " \
"where (sort_key <> number or from_state is distinct from before or from_state is null and to_state <> 'p' or " \
"        not from_state::text || to_state::text = any ($3) or is_last and state <> to_state or " \
"        is_last and last_transition <> sort_key) " \
"    and broken " \
"union all " \
"select pg_catalog.format('" name " %s', uuid), 'it has no transition' " \
"from o where not exists (select from tasker." log " l " \
"    where l." uuid " = o.uuid and l." uuid " >= $1 and l." uuid " < $2)"

pg::Statement broken_task_log(BROKEN_LOG("task", "task", "task_transition", "task_uuid"),
                              {UUIDOID, UUIDOID, TEXTARRAYOID});
pg::Statement broken_step_log(BROKEN_LOG("step", "workflow_step", "workflow_step_transition", "workflow_step_uuid"),
                              {UUIDOID, UUIDOID, TEXTARRAYOID});

// Log entries of what does not exist.
pg::Statement stray_log(R"sql(
select pg_catalog.format('task %s', l.task_uuid), 'it does not exist, and has transitions'
from tasker.task_transition l
where l.task_uuid >= $1 and l.task_uuid < $2 and l.sort_key = 1 and not exists (
    select from tasker.task t where t.task_uuid = l.task_uuid and t.task_uuid >= $1 and t.task_uuid < $2)
union all
select pg_catalog.format('step %s', l.workflow_step_uuid), 'it does not exist, and has transitions'
from tasker.workflow_step_transition l
where l.workflow_step_uuid >= $1 and l.workflow_step_uuid < $2 and l.sort_key = 1 and not exists (
    select from tasker.workflow_step s
    where s.workflow_step_uuid = l.workflow_step_uuid and s.workflow_step_uuid >= $1 and s.workflow_step_uuid < $2))sql",
    {UUIDOID, UUIDOID});

pg::Statement broken_identities(R"sql(
select pg_catalog.format('identity key "%s"', i.identity_key),
    pg_catalog.format('task %s does not exist, or is of another name', i.task_uuid)
from tasker.task_identity i
left join tasker.task t on t.task_uuid = i.task_uuid and t.task_uuid >= $1 and t.task_uuid < $2
left join tasker.named_tasks n on n.named_task_uuid = t.named_task_uuid
left join tasker.named_tasks o on o.named_task_uuid = i.named_task_uuid
where i.task_uuid >= $1 and i.task_uuid < $2
    and (n.task_namespace_uuid, n.name) is distinct from (o.task_namespace_uuid, o.name))sql",
    {UUIDOID, UUIDOID});

// The rules of the templates, and of the sets' settings.
pg::Statement broken_templates(R"sql(
select pg_catalog.format('named task %s', n.named_task_uuid), 'its namespace does not exist'
from tasker.named_tasks n
where not exists (select from tasker.task_namespaces s where s.task_namespace_uuid = n.task_namespace_uuid)
union all
select pg_catalog.format('named step %s', s.named_step_uuid), problem
from tasker.named_steps s
left join tasker.named_tasks n using (named_task_uuid)
left join tasker.step_flow f using (flow_id), lateral (values
    (n.named_task_uuid is null, 'its named task does not exist'),
    (f.flow_id is null, pg_catalog.format('its flow %s carries no steps', s.flow_id)),
    (f.handler <> s.handler or f.task_namespace_uuid <> n.task_namespace_uuid,
        pg_catalog.format('its flow %s is of another handler', s.flow_id))
) rules (broken, problem) where broken)sql",
    {});

pg::Statement broken_settings(R"sql(
select pg_catalog.format('partition set %s', o.parent), 'its settings are not those of tasker.task'
from tasker.part_config o left join tasker.part_config t on t.parent = 'tasker.task'::regclass
where o.parent in ('tasker.workflow_step'::regclass, 'tasker.workflow_step_edge', 'tasker.task_transition',
        'tasker.workflow_step_transition')
    and (o.partition_interval, o.premake, o.retention, o.timezone, o.legal_hold) is distinct from
        (t.partition_interval, t.premake, t.retention, t.timezone, t.legal_hold))sql",
    {});

// clang-format on

void report_rows(pg::ResultSet &result, const pg::Rows &rows)
{
    for (uint64 i = 0; i < rows.count(); i++) {
        const Datum values[2] = {rows.datum(i, 1), rows.datum(i, 2)};
        const bool nulls[2] = {};
        pg::pg_call([&] { result.add(values, nulls); });
    }
}

template <class State> const char *all_states()
{
    constexpr int kCount = static_cast<int>(core::detail::table_of<State>().size());
    char *text = static_cast<char *>(palloc0(kCount + 1));
    for (int i = 0; i < kCount; i++)
        text[i] = static_cast<char>(core::state_at<State>(i));
    return text;
}

// Every legal transition, as a text array. Plain C inside: may ereport.
template <class State> Datum all_transitions()
{
    constexpr int kCount = static_cast<int>(core::detail::table_of<State>().size());
    Datum pairs[kCount * kCount];
    int count = 0;
    for (int i = 0; i < kCount; i++) {
        for (int j = 0; j < kCount; j++) {
            const State from = core::state_at<State>(i);
            const State to = core::state_at<State>(j);
            if (!core::is_legal_transition(from, to, core::Walk::again))
                continue;
            const char pair[] = {static_cast<char>(from), static_cast<char>(to)};
            pairs[count++] = PointerGetDatum(cstring_to_text_with_len(pair, 2));
        }
    }
    return PointerGetDatum(construct_array(pairs, count, TEXTOID, -1, false, TYPALIGN_INT));
}

struct Time
{
    core::Uuid from;
    core::Uuid to;
};

void check_time(pg::ResultSet &result, const Time &time)
{
    struct Rule
    {
        pg::Statement *statement;
        const pg::Param *more; // $3
    };
    pg::Spi spi;
    const pg::Param from = pg::Param::of_datum(pg::pg_call([&] { return datum_of(time.from); }));
    const pg::Param to = pg::Param::of_datum(pg::pg_call([&] { return datum_of(time.to); }));
    const pg::Param task_states(pg::pg_call([] { return all_states<core::TaskState>(); }));
    const pg::Param step_states(pg::pg_call([] { return all_states<core::StepState>(); }));
    const pg::Param task_moves =
        pg::Param::of_datum(pg::pg_call([] { return all_transitions<core::TaskState>(); }));
    const pg::Param step_moves =
        pg::Param::of_datum(pg::pg_call([] { return all_transitions<core::StepState>(); }));
    for (const Rule &rule :
         {Rule{&broken_tasks, &task_states}, Rule{&broken_steps, &step_states},
          Rule{&forgotten_steps, nullptr}, Rule{&broken_edges, nullptr}, Rule{&broken_records, nullptr},
          Rule{&broken_task_log, &task_moves}, Rule{&broken_step_log, &step_moves}, Rule{&stray_log, nullptr},
          Rule{&broken_identities, nullptr}}) {
        if (rule.more != nullptr)
            report_rows(result, spi.run(*rule.statement, {from, to, *rule.more}));
        else
            report_rows(result, spi.run(*rule.statement, {from, to}));
        pg::check_for_interrupts();
    }
}

} // namespace

TASKER_FUNCTION(check_workflow_integrity)
{
    pg::ResultSet result(args.call());
    pg::ContextResource memory;
    pg::Vector<Time> times(&memory);
    for (const partition::DirectoryEntry &entry : partition::directory(parent_of(Table::task)))
        times.push_back({lowest_uuid_at(entry.lower), lowest_uuid_at(entry.upper)});
    {
        pg::Spi spi;
        report_rows(result, spi.run(broken_templates));
        report_rows(result, spi.run(broken_settings));
    }
    for (const Time &time : times)
        check_time(result, time);
    return 0;
}

} // namespace tasker::workflow
