// create_queue() and drop_queue(): a queue's row, its tables and its sequences.
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "stream/consumer.hpp"
#include "stream/log_ddl.hpp"
#include "stream/restore.hpp"
#include "stream/slots.hpp"
#include "stream/tick.hpp"

using namespace tasker;
using namespace tasker::stream;

namespace {

void run_ddl(const char *format, int32_t id, int table = 0)
{
    pg::Spi spi;
    spi.run_text(pg::pg_call([&] { return psprintf(format, id, table); }));
}

void make_tables(int32_t id)
{
    run_ddl("create sequence tasker.event_%1$d_tick_seq", id);
    run_ddl("create sequence tasker.event_%1$d_id_seq", id);
    run_ddl("create table tasker.event_%1$d (like tasker.event_template including defaults)", id);
    for (int i = 0; i < kTables; i++) {
        run_ddl("create table tasker.event_%1$d_%2$d () inherits (tasker.event_%1$d) "
                "with (autovacuum_enabled = off, toast.autovacuum_enabled = off)",
                id, i);
        run_ddl(
            "alter table tasker.event_%1$d_%2$d alter ev_id set default nextval('tasker.event_%1$d_id_seq')",
            id, i);
        run_ddl("create index event_%1$d_%2$d_txid_idx on tasker.event_%1$d_%2$d (ev_txid)", id, i);
    }
}

// A dump of the schema alone brings event tables without the queues that they belong to.
int32_t free_queue_id()
{
    static pg::Statement next("select nextval('tasker.queue_queue_id_seq')::integer", {});
    for (;;) {
        pg::Spi spi;
        const int32_t id = spi.run_latest(next).i32(0, 1);
        const bool is_used = pg::pg_call([&] {
            return OidIsValid(
                get_relname_relid(psprintf("event_%d", id), get_namespace_oid("tasker", false)));
        });
        if (!is_used)
            return id;
    }
}

// Nothing when there is a queue of that name already.
std::optional<int32_t> insert_queue(std::string_view name)
{
    static pg::Statement insert(
        "insert into tasker.queue (queue_id, queue_name, queue_data_pfx, queue_event_seq, queue_tick_seq) "
        "values ($2, $1, 'tasker.event_' || $2, 'tasker.event_' || $2 || '_id_seq', "
        "'tasker.event_' || $2 || '_tick_seq') on conflict (queue_name) do nothing returning queue_id",
        {TEXTOID, INT4OID});
    const int32_t id = free_queue_id();
    pg::Spi spi;
    const pg::Rows rows = spi.run_latest(insert, {name, id});
    return rows.empty() ? std::nullopt : std::optional(rows.i32(0, 1));
}

// Waits for those that register consumers, and for another one that drops it.
Queue lock_queue_to_drop(std::string_view name)
{
    static pg::Statement lock("select queue_id from tasker.queue where queue_id = $1 for update", {INT4OID});
    for (;;) {
        const Queue queue = queue_named(name);
        if (!pg::Spi().run_latest(lock, {queue.queue_id}).empty())
            return queue;
        pg::check_for_interrupts();
    }
}

} // namespace

bool tasker::stream::create_queue(std::string_view name, std::span<const LogTable> logs)
{
    if (find_queue(name))
        return false;
    prepare_slots();
    note_origin();
    if (!logs.empty())
        raise_log_offset(logs);
    const std::optional<int32_t> id = insert_queue(name);
    if (!id)
        return false;
    add_logs(*id, logs);
    make_tables(*id);
    const Queue queue = queue_named(name);
    tie_to_extension(queue);
    lock_ticks(queue.queue_id);
    make_tick(queue, 0);
    return true;
}

// create_queue(i_queue_name): 1 when it was made, 0 when it was there.
TASKER_FUNCTION(create_queue)
{
    const std::string_view name = args.name(0, "i_queue_name");
    if (find_queue(name))
        return args.result(int32_t{0});
    return args.result(create_registered_queue(name) || create_queue(name) ? int32_t{1} : int32_t{0});
}

namespace {

// Its ticks, its registrations, and the consumers that have no other queue. Who registers one of them on
// another queue at this moment holds its row: so the rows are locked by a statement of their own, and those
// that follow see what he has done.
void remove_rows_of(int32_t queue_id)
{
    static pg::Statement removals[] = {
        {"select from tasker.consumer where co_id in (select sub_consumer from tasker.registration "
         "where sub_queue = $1) order by co_id for update",
         {INT4OID}},
        {"delete from tasker.retry_queue where ev_queue = $1", {INT4OID}},
        {"delete from tasker.dead_letter where dl_queue_id = $1", {INT4OID}},
        {"with gone as (delete from tasker.registration where sub_queue = $1 returning sub_consumer) "
         "delete from tasker.consumer c using gone where c.co_id = gone.sub_consumer and not exists "
         "(select from tasker.registration r where r.sub_consumer = c.co_id and r.sub_queue <> $1)",
         {INT4OID}},
        {"delete from tasker.tick_0 where tick_queue = $1", {INT4OID}},
        {"delete from tasker.tick_1 where tick_queue = $1", {INT4OID}},
        {"delete from tasker.tick_2 where tick_queue = $1", {INT4OID}},
        {"delete from tasker.queue_log where queue_id = $1", {INT4OID}},
        {"delete from tasker.queue where queue_id = $1", {INT4OID}},
    };
    pg::Spi spi;
    for (pg::Statement &removal : removals)
        spi.run_latest(removal, {queue_id});
}

} // namespace

// drop_queue(x_queue_name, x_force): 1.
TASKER_FUNCTION(drop_queue)
{
    const Queue queue = lock_queue_to_drop(args.text(0, "x_queue_name"));
    const bool force = args.call()->nargs > 1 && args.boolean(1, "x_force");
    lock_ticks(queue.queue_id);
    if (!force && has_consumers(queue.queue_id))
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "queue \"%s\" has consumers", queue.name)
            .hint("Unregister them, or drop the queue by force.");
    // A reader in the middle of a batch has locked some of the tables to its end; where it wants more of
    // them, the server's deadlock detector decides between the two.
    run_ddl("lock table tasker.event_%1$d in access exclusive mode", queue.queue_id);
    for (int i = 0; i < kTables; i++)
        run_ddl("drop table tasker.event_%1$d_%2$d", queue.queue_id, i);
    run_ddl("drop table tasker.event_%1$d", queue.queue_id);
    run_ddl("drop sequence tasker.event_%1$d_tick_seq, tasker.event_%1$d_id_seq", queue.queue_id);
    remove_rows_of(queue.queue_id);
    drop_grants(queue.queue_id);
    return args.result(int32_t{1});
}
