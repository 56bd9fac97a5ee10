select tasker.finish_batch(:batch);
