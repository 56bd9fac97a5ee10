"""The workflow plane's contestants: the subject, and the seed's tables driven by its statements."""

from pathlib import Path

from bench.lib import cluster, database
from bench.lib.contestant import Contestant, Unavailable
from bench.workflow.templates import CONTEXT, NAMESPACE, ORDER, RESULTS

HERE = Path(__file__).parent
QUEUE = HERE.parent / "queue"


class WorkflowContestant(Contestant):
    """Makes tasks and hands out their steps. Its scripts are:

    create    `:tasks` tasks of the kind `:task`; start: whatever has to be done before their first steps can be claimed
    claim     `:batch` steps, left in the variables of complete, and their number in `n`
    complete  all that were claimed
    next_ready, readiness, context, health: the functions that look."""

    # Which tables are its own, as regular expressions on their names: the report's groups.
    tables = {}
    done_sql = ""

    def __init__(self, server, work):
        super().__init__(server, work)
        self.scripts = HERE / "scripts" / self.name

    def fresh(self, dbname=None, templates=(ORDER,)):
        """A new database without tasks, with these kinds of tasks."""
        dbname = dbname or self.dbname
        self.make(dbname)
        with database.connect(self.server, dbname) as conn:
            for template in templates:
                self.define(conn, template)

    def make(self, dbname):
        """The schema in a database of that name."""
        raise NotImplementedError

    def define(self, conn, template):
        """Make a kind of task known."""
        raise NotImplementedError

    def defines(self, **more):
        """The pgbench variables of its scripts."""
        return {"namespace": NAMESPACE, "task": ORDER.name, "context": CONTEXT, "results": RESULTS, "priority": 0, **more}

    def operations(self, *names):
        """Those of the operations that it has: a contestant that need not start its tasks has no script for that."""
        return [name for name in names if self.can(name)]

    def life_script(self, template=ORDER):
        """One round of claim and complete; new tasks in one of as many rounds as a task has steps. The variable
        `turn` counts the rounds of each client."""
        create, work = (self.pgbench_script(*self.operations(*names)).read_text()
                        for names in (("create", "start"), ("claim", "complete")))
        path = self.work / f"{self.name}_life_{template.name}.sql"
        path.write_text(f"\\set turn (:turn + 1) % {len(template)}\n\\if :turn = 1\n{create}\\endif\n{work}")
        return path

    def done(self, conn):
        """How many (tasks, steps) are complete, counted row by row."""
        return conn.execute(self.done_sql).fetchone()

    def settle(self, conn):
        """What autovacuum would do in time."""
        conn.execute("vacuum (analyze)")


class Tasker(WorkflowContestant):
    name = "tasker"
    label = "tasker"
    tables = {"task": r"^task_p\d", "workflow_step": r"^workflow_step_p\d", "workflow_step_edge": r"^workflow_step_edge_p\d",
              "task_transition": r"^task_transition_p\d", "workflow_step_transition": r"^workflow_step_transition_p\d",
              "queue_record": r"^queue_record_p\d"}
    done_sql = """select (select count(*) from tasker.task where current_state = 'c'),
                         (select count(*) from tasker.workflow_step where current_state = 'c')"""

    def prepare(self):
        with database.connect(self.server) as conn:
            known = conn.execute("select 1 from pg_available_extensions where name = 'tasker'").fetchone()
            if not known:
                raise Unavailable(f"extension tasker is not installed in {cluster.share_dir(self.server.bindir)}")
        self.make(self.dbname)
        with self.connect() as conn:
            missing = [name for name in ("define_task", "create_tasks", "claim_steps", "complete_steps")
                       if conn.execute("select to_regproc(%s) is null", [f"tasker.{name}"]).fetchone()[0]]
        if missing:
            raise Unavailable(f"the installed extension tasker has no function {', '.join(missing)}")

    def make(self, dbname):
        """The database stays and the extension is made anew: what each database takes of shared memory is given back
        when the extension goes, and a run needs many."""
        if not database.exists(self.server, dbname):
            database.create_database(self.server, dbname)
        with database.connect(self.server, dbname) as conn:
            conn.execute("drop extension if exists tasker cascade")
            conn.execute("create extension tasker")

    def define(self, conn, template):
        conn.execute("select tasker.define_task(%s, %s, %s::jsonb)", [NAMESPACE, template.name, template.definition()])


class Seed(WorkflowContestant):
    name = "seed"
    label = "S"
    tables = {"task": "^tasks$", "workflow_step": "^workflow_steps$", "workflow_step_edge": "^workflow_step_edges$",
              "task_transition": "^task_transitions$", "workflow_step_transition": "^workflow_step_transitions$",
              "queue_record": "^processing_queue$"}
    done_sql = """select (select count(*) from seed.tasks where complete),
                         (select count(*) from seed.workflow_steps where processed)"""

    population_sql = HERE / "seed_population.sql"

    def make(self, dbname, indexes=True):
        database.create_database(self.server, dbname)
        for script in (QUEUE / "seed.sql", HERE / "seed.sql", HERE / "seed_functions.sql"):
            database.run_script(self.server, dbname, script)
        if indexes:
            self.add_indexes(dbname)

    def add_indexes(self, dbname):
        for script in (QUEUE / "seed_indexes.sql", HERE / "seed_indexes.sql"):
            database.run_script(self.server, dbname, script)

    def define(self, conn, template):
        conn.execute("insert into seed.task_namespaces (name) values (%s) on conflict do nothing", [NAMESPACE])
        kind = conn.execute("""
            insert into seed.named_tasks (task_namespace_uuid, name)
            select task_namespace_uuid, %s from seed.task_namespaces returning named_task_uuid""",
                            [template.name]).fetchone()[0]
        names = [name for name, _ in template.steps]
        edges = [(parent, name) for name, parents in template.steps for parent in parents]
        conn.execute("insert into seed.named_steps (name) select unnest(%s::text[]) on conflict do nothing", [names])
        conn.execute("""
            insert into seed.named_tasks_named_steps (named_task_uuid, named_step_uuid)
            select %s, named_step_uuid from seed.named_steps where name = any (%s)""", [kind, names])
        conn.execute("""
            insert into seed.named_tasks_edges (named_task_uuid, from_step_uuid, to_step_uuid)
            select %s, parent.named_step_uuid, child.named_step_uuid
            from unnest(%s::text[], %s::text[]) as e (parent_name, child_name)
            join seed.named_steps as parent on parent.name = parent_name
            join seed.named_steps as child on child.name = child_name""",
                     [kind, [edge[0] for edge in edges], [edge[1] for edge in edges]])
        conn.execute("analyze")
