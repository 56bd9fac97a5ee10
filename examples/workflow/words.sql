-- The workflow of the example, and the table that its last step writes to.

create schema words;
create table words.total (task_uuid uuid primary key, words integer not null);

select tasker.define_task('words', 'count', $$
{
    "description": "Counts the words of documents",
    "steps": [
        {"name": "split", "handler": "split", "type": "batch", "inputs": {"documents_per_step": 2}},
        {"name": "count", "handler": "count", "depends_on": ["split"], "max_attempts": 5,
         "backoff": {"base_seconds": 1, "multiplier": 2, "max_seconds": 60}},
        {"name": "total", "handler": "total", "type": "deferred", "depends_on": ["count"]},
        {"name": "publish", "handler": "publish", "depends_on": ["total"]}
    ]
}$$);
