// Proofs: does shared memory say what the table says, and does the table keep its rules?
//
// The comparison with lanes is exact only while nobody writes: it reads the table and the lanes at slightly
// different moments. Rules of the table itself hold in any snapshot.
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "queue/rebuild.hpp"

namespace tasker::queue {
namespace {

void report(pg::ResultSet &result, std::string_view object, std::string_view problem)
{
    Datum values[2] = {pg::Param(object).value, pg::Param(problem).value};
    bool nulls[2] = {};
    result.add(values, nulls);
}

void report_rows(pg::ResultSet &result, const pg::Rows &rows)
{
    for (uint64 i = 0; i < rows.count(); i++)
        report(result, rows.text(i, 1), rows.text(i, 2));
}

// Rules of the table.
pg::Statement broken_rules(
    "select pg_catalog.format('record %s', r.id), problem from tasker.queue_record r "
    "left join tasker.flow f using (flow_id), lateral (values "
    "  (f.flow_id is null and r.status in ('p', 'r'), 'its flow does not exist'), "
    "  (r.status = 'r' and (r.lease_token is null or r.lease_expires_at is null or r.claimed_at is null), "
    "   'it is in processing without a lease'), "
    "  (r.status = 'c' and r.changed_at is null, 'it is completed without a time'), "
    "  (r.status = 'f' and r.retry_count = 0, 'it has failed without a failed attempt'), "
    "  (r.retry_count < 0, 'its number of attempts is negative') "
    ") rules (broken, problem) where broken",
    {});

// Each id stands once; within a partition its key sees to that, so only the bounds have to be right.
pg::Statement double_ids("select pg_catalog.format('record %s', id), 'its id stands more than once' "
                         "from tasker.queue_record group by id having count(*) > 1",
                         {});

// Deduplication keys name records of their flow.
pg::Statement broken_keys("select pg_catalog.format('dedup key \"%s\"', d.dedup_key), "
                          "'its record belongs to another flow' from tasker.dedup_key d "
                          "join tasker.queue_record r on r.id = d.record_id where r.flow_id <> d.flow_id",
                          {});

// Seals against their partitions.
pg::Statement broken_seals(
    "with marks as (select partition from tasker.sealed_partition where priority = -1), "
    "t as (select r.tableoid as partition, r.flow_id, r.priority::int, "
    "    count(*) filter (where status = 'c') completed, count(*) filter (where status = 'f') failed, "
    "    count(*) filter (where status = 'x') cancelled, count(*) filter (where status in ('p', 'r')) live "
    "  from tasker.queue_record r where r.tableoid in (select partition from marks) group by 1, 2, 3), "
    "s as (select * from tasker.sealed_partition where priority >= 0) "
    "select pg_catalog.format('seal of %s', partition::regclass), "
    "  pg_catalog.format('it does not say what flow %s at priority %s has there', flow_id, priority) "
    "from t full join s using (partition, flow_id, priority) "
    "where (t.completed, t.failed, t.cancelled, t.live) is distinct from (s.completed, s.failed, "
    "s.cancelled, 0) "
    "  and coalesce(t.completed, 0) + coalesce(t.failed, 0) + coalesce(t.cancelled, 0) + coalesce(t.live, 0) "
    "    + coalesce(s.completed, 0) + coalesce(s.failed, 0) + coalesce(s.cancelled, 0) > 0",
    {});

// Lanes against the table: counts, and floors above what they must not hide.
pg::Statement broken_lanes(
    "with t as (select f.flow_name, r.priority::int, r.tableoid::regclass as partition, "
    "    count(*) filter (where status = 'p') pending, count(*) filter (where status = 'r') processing, "
    "    count(*) filter (where status = 'c') completed, count(*) filter (where status = 'f') failed, "
    "    count(*) filter (where status = 'x') cancelled, "
    "    min(position) filter (where status = 'p') first_pending, "
    "    min(position) filter (where status in ('p', 'r')) first_live "
    "  from tasker.queue_record r join tasker.flow f using (flow_id) group by 1, 2, 3), "
    "j as (select flow_name, priority, partition, t.flow_name as in_table, l.claim_floor, l.done_floor, "
    "    t.first_pending, t.first_live, "
    "    array[coalesce(t.pending, 0), coalesce(t.processing, 0), coalesce(t.completed, 0), "
    "          coalesce(t.failed, 0), coalesce(t.cancelled, 0)] as counted, "
    "    array[coalesce(l.pending, 0), coalesce(l.processing, 0), coalesce(l.completed, 0), "
    "          coalesce(l.failed, 0), coalesce(l.cancelled, 0)] as kept "
    "  from t full join tasker.queue_lanes() l using (flow_name, priority, partition)) "
    "select pg_catalog.format('lane (%s, %s, %s)', flow_name, priority, partition), problem "
    "from j, lateral (values "
    "  (counted <> kept, pg_catalog.format('it has %s records by status, statistics say %s', counted, "
    "kept)), "
    "  (first_pending is not null and (claim_floor is null or claim_floor > first_pending), "
    "   pg_catalog.format('its claim floor %s hides the pending record at %s', claim_floor, first_pending)), "
    "  (first_live is not null and (done_floor is null or done_floor > first_live), "
    "   pg_catalog.format('its done floor %s hides the live record at %s', done_floor, first_live)) "
    ") rules (broken, problem) where broken",
    {});

// The flows' totals, which get_queue_status() shows.
pg::Statement broken_totals(
    "select pg_catalog.format('flow \"%s\"', s.flow_name), "
    "  pg_catalog.format('it has %s records by status, statistics say %s', counted, said) "
    "from tasker.get_queue_status() s join tasker.flow f using (flow_name) "
    "left join (select r.flow_id, array[count(*) filter (where status = 'p'), "
    "    count(*) filter (where status = 'r'), count(*) filter (where status = 'c'), "
    "    count(*) filter (where status = 'f'), count(*) filter (where status = 'x')] as counted "
    "  from tasker.queue_record r group by 1) t using (flow_id), "
    "lateral (select array[s.pending + s.scheduled, s.processing, s.completed, s.failed, s.cancelled]) l "
    "(said) "
    "where said <> coalesce(counted, '{0,0,0,0,0}')",
    {});

} // namespace

TASKER_FUNCTION(check_queue_integrity)
{
    pg::ResultSet result(args.call());
    const bool lanes = built_state(queue_parent()) != nullptr;
    pg::Spi spi;
    report_rows(result, spi.run(broken_rules));
    report_rows(result, spi.run(double_ids));
    report_rows(result, spi.run(broken_keys));
    report_rows(result, spi.run(broken_seals));
    if (lanes) {
        report_rows(result, spi.run(broken_lanes));
        report_rows(result, spi.run(broken_totals));
    }
    return 0;
}

} // namespace tasker::queue
