// pg_cron, as far as several files of the worker ask for it (cron.cpp).
#pragma once

#include "pg/spi.hpp"

namespace tasker::worker {

inline constexpr int kKnowsDatabases = 1004; // schedule_in_database()
inline constexpr int kKnowsSeconds = 1005;

// pg_cron's version as 1000 * major + minor; nothing when it is not installed in this database.
std::optional<int> pg_cron_version(pg::Spi &spi);

// Where pg_cron's own extension is to be made; null when the library is not loaded.
const char *pg_cron_database();

} // namespace tasker::worker
