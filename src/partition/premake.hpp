// Premake: the partitions of now and of the near future exist before anybody needs them.
#pragma once

#include "pg/error.hpp"

namespace tasker::partition {

// Makes what an open set lacks, in the current transaction.
void premake_set(Oid parent);

} // namespace tasker::partition
