// The ids of tasks and steps for SQL, and where new ones come from.
#include "workflow/ids.hpp"

#include "pg/function.hpp"

extern "C" {
#include "common/pg_prng.h"
#include "storage/proc.h"
#include "utils/uuid.h"
}

namespace tasker::workflow {
namespace {

// What makes an id unique within its millisecond: which backend made it, how many it has made in that
// millisecond, and chance, for the backend that comes after this one in the same place.
constexpr int kBackendBits = 14;
constexpr int kCounterBits = 14;
constexpr int kChanceBits = 14;
static_assert(kBackendBits + kCounterBits + kChanceBits == 42);

uint64_t chance()
{
    return pg_prng_uint64(&pg_global_prng_state) >> (64 - kChanceBits);
}

} // namespace

core::Uuid new_task_uuid()
{
    static int64_t last_ms = 0;
    static uint64_t count = 0;
    const int64_t now_ms = pg::unix_us_of_timestamp(GetCurrentTimestamp()) / 1000;
    if (now_ms > last_ms) {
        last_ms = now_ms;
        count = 0;
    } else if (++count >> kCounterBits != 0) { // the clock stands still, or went back
        last_ms++;
        count = 0;
    }
    const auto backend = static_cast<uint64_t>(tasker_proc_number()) & ((1 << kBackendBits) - 1);
    return core::make_task_uuid(last_ms,
                                count << (kBackendBits + kChanceBits) | backend << kChanceBits | chance());
}

core::Uuid uuid_of(Datum value)
{
    core::Uuid uuid;
    memcpy(uuid.bytes.data(), DatumGetUUIDP(value)->data, sizeof uuid.bytes);
    return uuid;
}

Datum datum_of(const core::Uuid &uuid)
{
    auto *copy = static_cast<pg_uuid_t *>(palloc(sizeof(pg_uuid_t)));
    memcpy(copy->data, uuid.bytes.data(), sizeof copy->data);
    return UUIDPGetDatum(copy);
}

const char *text_of(const core::Uuid &uuid)
{
    constexpr char kDigits[] = "0123456789abcdef";
    auto *text = static_cast<char *>(palloc(37));
    char *at = text;
    for (size_t i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *at++ = '-';
        *at++ = kDigits[uuid.bytes[i] >> 4];
        *at++ = kDigits[uuid.bytes[i] & 15];
    }
    *at = '\0';
    return text;
}

TASKER_FUNCTION(task_of)
{
    return datum_of(core::task_of(uuid_of(args.datum(0))));
}

TASKER_FUNCTION(last_step_of)
{
    return datum_of(core::step_uuid(uuid_of(args.datum(0)), core::kMaxStepNumber));
}

} // namespace tasker::workflow
