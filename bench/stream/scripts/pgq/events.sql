select * from pgq.get_batch_events(:batch);
