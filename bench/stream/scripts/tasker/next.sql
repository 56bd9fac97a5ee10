select tasker.next_batch(:queue, :consumer) as batch \gset
