select tasker.add_records_to_queue(:flow, array_fill(:payload::jsonb, array[100]));
