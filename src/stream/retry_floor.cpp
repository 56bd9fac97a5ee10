#include "stream/retry_floor.hpp"

#include "stream/tick.hpp"

namespace tasker::stream {
namespace {

constexpr uint64 kOldestXid = 100'000'000; // how far back it is known what has become of a transaction

struct Remembered
{
    Oid table;
    FullTransactionId made_in; // the (sub)transaction that it depends on; invalid: none
    TimestampTz due;
    core::TickSnapshot seen; // `running` in the context below
};

Remembered remembered{};
MemoryContext memory = nullptr;

bool was_committed(FullTransactionId full)
{
    const TransactionId xid = XidFromFullTransactionId(full);
    const uint64 age = U64FromFullTransactionId(ReadNextFullTransactionId()) - U64FromFullTransactionId(full);
    if (age > kOldestXid)
        return false;
    return TransactionIdIsCurrentTransactionId(xid) || TransactionIdDidCommit(xid);
}

// What is changed from here on counts only with this (sub)transaction, if it has changed anything so far.
FullTransactionId depends_on()
{
    return TransactionIdIsValid(GetTopTransactionIdIfAny()) ? GetCurrentFullTransactionId()
                                                            : InvalidFullTransactionId;
}

} // namespace

std::optional<RetryFloor> remembered_floor(Oid table)
{
    if (remembered.table != table)
        return std::nullopt;
    if (FullTransactionIdIsValid(remembered.made_in) &&
        !pg::pg_call([] { return was_committed(remembered.made_in); })) {
        remembered.table = InvalidOid;
        return std::nullopt;
    }
    return RetryFloor{remembered.due, remembered.seen};
}

// `floor` may be the remembered one with another time, so it is copied first.
void remember_floor(Oid table, const RetryFloor &floor)
{
    pg::pg_call([&] {
        const size_t count = floor.seen.running.size();
        if (memory == nullptr)
            memory = AllocSetContextCreate(TopMemoryContext, "tasker retry floor", ALLOCSET_SMALL_SIZES);
        auto *running = static_cast<uint64_t *>(MemoryContextAlloc(memory, sizeof(uint64_t) * (count + 1)));
        std::copy(floor.seen.running.begin(), floor.seen.running.end(), running);
        if (remembered.seen.running.data() != nullptr)
            pfree(const_cast<uint64_t *>(remembered.seen.running.data()));
        remembered.seen = {floor.seen.xmin, floor.seen.xmax, {running, count}};
        remembered.due = floor.due;
        remembered.table = InvalidOid;
        remembered.made_in = depends_on();
        remembered.table = table;
    });
}

core::TickSnapshot active_snapshot()
{
    const Datum datum = pg::pg_call([] { return OidFunctionCall0(F_PG_CURRENT_SNAPSHOT); });
    core::TickSnapshot snapshot = snapshot_of_datum(datum);
    const FullTransactionId own = GetTopFullTransactionIdIfAny();
    if (!FullTransactionIdIsValid(own))
        return snapshot;
    const uint64_t limit = U64FromFullTransactionId(own);
    size_t count = 0;
    while (count < snapshot.running.size() && snapshot.running[count] < limit)
        count++;
    snapshot.running = snapshot.running.first(count);
    snapshot.xmax = std::min(snapshot.xmax, limit);
    snapshot.xmin = std::min(snapshot.xmin, snapshot.xmax);
    return snapshot;
}

} // namespace tasker::stream
