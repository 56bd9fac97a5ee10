// Who holds back the oldest snapshot: view xmin_holders, and its first row for health_check().
#pragma once

#include "pg/spi.hpp"

namespace tasker::worker {

struct XminHolder
{
    std::string_view kind; // the texts live as long as the Spi object
    std::string_view identity;
    int32_t pid; // 0: none
    int32_t age_xids;
    int64_t held_us; // 0: not known
};

// The oldest one that keeps dead rows of this database.
std::optional<XminHolder> oldest_xmin_holder(pg::Spi &spi);

} // namespace tasker::worker
