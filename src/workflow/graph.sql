-- Drawing a task.

create function tasker.task_graph(task_uuid uuid, format text = 'mermaid', max_siblings integer = 10) returns text
    language c stable as 'MODULE_PATHNAME', 'tasker_task_graph';
comment on function tasker.task_graph(uuid, text, integer) is
'Draws a task: its steps with their states, attempts and times, and what waits for what. format: mermaid (flowchart; a class for each state, a shape for each kind of step), dot (Graphviz; the same), or text, a tree for the terminal in which each step stands once, under the last step that all ways to it pass through; the other steps that it waits for are named behind it. In the tree, of more than max_siblings steps that stand side by side that many are drawn, those in trouble first, and the others are counted by state; 0 draws all. Errors: 42704 unknown task; 22023 unknown format, null, negative max_siblings.';
