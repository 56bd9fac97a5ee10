select tasker.mark_records_completed(:ids::bigint[], null, :tokens::bigint[]);
