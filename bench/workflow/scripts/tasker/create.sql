select cardinality(tasker.create_tasks(:namespace, :task, array_fill(:context::jsonb, array[:tasks::integer]),
                                       priority => :priority::integer)) as created \gset
