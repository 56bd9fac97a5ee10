// Where record ids and lease tokens come from.
#pragma once

#include "pg/postgres.hpp"

namespace tasker::queue {

// Fills `ids` with new ids in rising order. They come from the clock in shared memory, or from a sequence
// where there is none; both stay unique across sessions and grow in this one also when the clock steps back.
void reserve_record_ids(Oid parent, std::span<int64_t> ids);

int64_t reserve_record_id(Oid parent);

} // namespace tasker::queue
