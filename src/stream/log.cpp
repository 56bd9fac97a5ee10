#include "stream/log.hpp"

#include "pg/memory.hpp"
#include "pg/spi.hpp"

namespace tasker::stream {
namespace {

constexpr size_t kMostRegistered = 8;

struct Registered
{
    const char *queue;
    std::span<const LogMapper> logs;
};

Registered registered[kMostRegistered];
size_t registered_count = 0;

} // namespace

void register_log_queue(const char *queue, std::span<const LogMapper> logs)
{
    if (registered_count == kMostRegistered)
        throw pg::Error(ERRCODE_INTERNAL_ERROR, "too many queues over logs are registered");
    registered[registered_count++] = {queue, logs};
}

namespace {

const Registered *find_registered(std::string_view name)
{
    const Registered *end = registered + registered_count;
    const Registered *begin = registered;
    const Registered *found = std::find_if(begin, end, [&](const Registered &r) { return name == r.queue; });
    return found != end ? found : nullptr;
}

} // namespace

bool is_registered_queue(std::string_view name)
{
    return find_registered(name) != nullptr;
}

const LogMapper *find_log_mapper(std::string_view log)
{
    for (const Registered &queue : std::span(registered, registered_count)) {
        for (const LogMapper &mapper : queue.logs) {
            if (log == mapper.log)
                return &mapper;
        }
    }
    return nullptr;
}

// Somebody else may be faster; then the queue is there as well.
bool create_registered_queue(std::string_view name)
{
    const Registered *queue = find_registered(name);
    if (queue == nullptr || XactReadOnly || RecoveryInProgress())
        return false;
    pg::ContextResource memory;
    pg::Vector<LogTable> logs(&memory);
    for (const LogMapper &mapper : queue->logs) {
        const Oid table =
            pg::pg_call([&] { return get_relname_relid(mapper.log, get_namespace_oid("tasker", false)); });
        logs.push_back({table, "txid", &mapper, {}});
    }
    create_queue(name, {logs.data(), logs.size()});
    return find_queue(name).has_value();
}

namespace {

constexpr int kMapperColumn = 3;
constexpr int kFirstExpression = 4;

const char *copy(const pg::Rows &rows, uint64 row, int column, MemoryContext memory)
{
    if (rows.is_null(row, column))
        return nullptr;
    const std::string_view text = rows.text(row, column);
    const pg::MemoryContextScope scope(memory);
    return pg::pg_call([&] { return pnstrdup(text.data(), text.size()); });
}

} // namespace

std::span<const LogTable> logs_of(int32_t queue_id)
{
    static pg::Statement query("select log_table::oid, log_txid::text, log_mapper, log_order, log_ev_time, "
                               "log_ev_type, log_ev_data, "
                               "log_ev_extra1, log_ev_extra2, log_ev_extra3, log_ev_extra4 from "
                               "tasker.queue_log where queue_id = $1 "
                               "order by log_number",
                               {INT4OID});
    const MemoryContext memory = CurrentMemoryContext;
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {queue_id});
    auto *logs = static_cast<LogTable *>(
        pg::pg_call([&] { return MemoryContextAllocZero(memory, sizeof(LogTable) * (rows.count() + 1)); }));
    for (uint64 i = 0; i < rows.count(); i++) {
        logs[i].table = rows.oid(i, 1);
        logs[i].txid_column = copy(rows, i, 2, memory);
        for (int n = 0; n < kLogExpressions; n++)
            logs[i].expressions[n] = copy(rows, i, kFirstExpression + n, memory);
        if (rows.is_null(i, kMapperColumn))
            continue;
        logs[i].mapper = find_log_mapper(rows.text(i, kMapperColumn));
        if (logs[i].mapper == nullptr)
            throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "nobody maps the rows of log \"%s\"",
                            copy(rows, i, kMapperColumn, memory))
                .hint("The library of the extension is older than its tables.");
    }
    return {logs, static_cast<size_t>(rows.count())};
}

} // namespace tasker::stream
