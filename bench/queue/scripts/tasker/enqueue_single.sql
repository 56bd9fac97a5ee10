select tasker.enqueue(:flow, :payload::jsonb);
