#include "partition/cutoff.hpp"

#include "partition/retire_checks.hpp"

namespace tasker::partition {

std::optional<int64_t> retention_cutoff(const SetConfig &config)
{
    if (!retires(config, find_owned_set(config.parent)))
        return std::nullopt;
    const int64_t cutoff = cutoff_key(config);
    return cutoff == core::kInt64Min ? std::nullopt : std::optional(cutoff);
}

int64_t key_before(const Control &control, int64_t key, int64_t us)
{
    if (!has_time(control.kind) || key == core::kInt64Min || key == core::kInt64Max)
        return key;
    return key_of_unix_us(control.kind, core::saturating_sub(unix_us_of_key(control.kind, key), us));
}

} // namespace tasker::partition
