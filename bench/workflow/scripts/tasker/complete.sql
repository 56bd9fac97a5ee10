select tasker.complete_steps(:steps::uuid[], array_fill(:results::jsonb, array[:n::integer]), :tokens::bigint[]);
