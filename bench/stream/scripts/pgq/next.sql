select pgq.next_batch(:queue, :consumer) as batch \gset
