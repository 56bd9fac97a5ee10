"""Claim and complete on a backlog: throughput by batch size, and latency under many clients."""

from bench.lib import cpu, figures, pgbench
from bench.lib.report import Bar, Row

BACKLOG = 500_000
LEAST_BACKLOG = 100_000

# A run ends before it has eaten more than this share of its backlog.
SHARE = 0.85

PEERS = ["pgboss", "graphile"]

# "No slower than with 4 clients": runs of a few seconds differ by this much by themselves.
NOISE = 0.95


class ClaimRuns:
    """Runs claim + complete on a backlog that is the same at the start of each run."""

    def __init__(self, ctx):
        self.ctx = ctx
        self.backlog = ctx.scaled(BACKLOG, LEAST_BACKLOG)
        self.rates = {}
        self.last = {}
        self.costs = {}

    def run(self, contestant, batch, clients, synchronous_commit="off"):
        """One run; returns records per second and keeps the latencies of its transactions."""
        key = (contestant.name, batch, clients, synchronous_commit)
        if key not in self.rates:
            self.rates[key] = self._first_look(contestant, batch, clients, synchronous_commit)
        most = SHARE * self.backlog
        if self.rates[key] * self.ctx.options.seconds <= most:
            length = {"seconds": self.ctx.options.seconds}
        else:
            length = {"transactions": max(1, int(most / batch / clients))}
        self.rates[key] = self._measured(contestant, batch, clients, synchronous_commit, **length)
        return self.rates[key]

    def _first_look(self, contestant, batch, clients, synchronous_commit):
        """A rough rate, to know how long a run may last: more and more transactions until they take a while."""
        contestant.reset(self.backlog)
        transactions = 4
        while True:
            outcome = pgbench.run(self.ctx.server, contestant.dbname, contestant.pgbench_script("claim", "complete"),
                                  clients=clients, transactions=transactions, defines=contestant.defines(batch=batch),
                                  synchronous_commit=synchronous_commit)
            rate = outcome.tps * batch
            if outcome.seconds > 0.25 or transactions * 5 * batch * clients > self.backlog / 2:
                return rate
            transactions *= 4

    def _measured(self, contestant, batch, clients, synchronous_commit, **length):
        contestant.reset(self.backlog)
        with cpu.Meter(self.ctx.server) as meter:
            outcome = pgbench.run(self.ctx.server, contestant.dbname,
                                  contestant.pgbench_script("claim", "complete"), clients=clients,
                                  defines=contestant.defines(batch=batch), synchronous_commit=synchronous_commit,
                                  log=True, **length)
        left = contestant.pending()
        cost = meter.per(self.backlog - left)
        self.costs.setdefault((batch, clients, synchronous_commit), {}).setdefault(contestant.name, []).append(cost)
        if left == 0:
            self.ctx.say(f"{contestant.label} emptied the backlog before the run ended: the figure is too low")
        self.last[(contestant.name, batch, clients)] = outcome
        return (self.backlog - left) / outcome.seconds


def claim_complete(ctx):
    """Batches of 1, 10 and 100 with the usual number of clients; batch 10 with 16."""
    runs = ClaimRuns(ctx)
    able = ctx.able("claim", "complete")
    clients = ctx.options.clients
    rows = {}
    for batch, limit in ((1, 2.0), (10, 3.0), (100, 4.0)):
        found = ctx.interleaved(able, ctx.options.rounds, f"claim_complete, batch {batch}",
                                lambda c: runs.run(c, batch, clients))
        row = rows[batch] = ctx.report.add(Row("claim_complete", f"batch {batch}, {clients} clients", "records/s",
                                               found))
        ctx.report.add(Row("claim_complete", f"batch {batch}, {clients} clients, server's CPU", "µs/record",
                           runs.costs[(batch, clients, "off")]))
        ctx.report.ratio_bar(row, "seed", limit)
        if batch > 1:
            ctx.report.ahead_bar(row, PEERS)
    found = ctx.interleaved(able, 1, "claim_complete, batch 10, synchronous_commit on",
                            lambda c: runs.run(c, 10, clients, "on"))
    ctx.report.add(Row("claim_complete", f"batch 10, {clients} clients, sync on", "records/s", found))
    _many_clients(ctx, runs, able, rows[10])


def _many_clients(ctx, runs, able, few):
    """16 clients, batch 10: the rate against that of few clients, and the spread of latencies."""
    middles = {contestant.name: [] for contestant in able}
    tails = {contestant.name: [] for contestant in able}

    def measure(contestant):
        rate = runs.run(contestant, 10, 16)
        latencies = runs.last[(contestant.name, 10, 16)].latencies
        middles[contestant.name].append(figures.percentile(latencies, 50))
        tails[contestant.name].append(figures.percentile(latencies, 99))
        return rate

    found = ctx.interleaved(able, ctx.options.rounds, "claim_complete, batch 10, 16 clients", measure)
    rate = ctx.report.add(Row("claim_complete", "batch 10, 16 clients", "records/s", found))
    ctx.report.add(Row("claim_complete", "batch 10, 16 clients, p50", "ms", middles))
    tail = ctx.report.add(Row("claim_complete", "batch 10, 16 clients, p99", "ms", tails))
    subject = ctx.report.subject
    few_rate, many_rate = few.value(subject), rate.value(subject)
    rate.bars.append(Bar(f"× its rate with {ctx.options.clients} clients (noise {NOISE})",
                         many_rate / few_rate if few_rate and many_rate else None, ">=", NOISE))
    _paced(ctx, runs, able)
    spread = [high / low for high, low in zip(tails.get(subject, []), middles.get(subject, []))]
    tail.bars.append(Bar("p99 / p50", figures.median(spread) if spread else None, "<=", 3.0))


def _paced(ctx, runs, able):
    """The same 16 clients at half the rate that they reached: latencies without the queue for the processor,
    counted from the time at which each transaction was due."""
    middles, tails = {}, {}
    for contestant in able:
        contestant.reset(runs.backlog)
        rate = runs.rates[(contestant.name, 10, 16, "off")] / 10 / 2
        outcome = pgbench.run(ctx.server, contestant.dbname, contestant.pgbench_script("claim", "complete"),
                              clients=16, seconds=ctx.options.seconds, rate=f"{max(1.0, rate):.1f}",
                              defines=contestant.defines(batch=10), log=True)
        middles[contestant.name] = [figures.percentile(outcome.latencies, 50)]
        tails[contestant.name] = [figures.percentile(outcome.latencies, 99)]
        ctx.say(f"claim_complete, 16 clients at half their rate, {contestant.label}: "
                f"p50 {middles[contestant.name][0]:.2f} ms, p99 {tails[contestant.name][0]:.2f} ms")
    ctx.report.add(Row("claim_complete", "batch 10, 16 clients, half rate, p50", "ms", middles))
    ctx.report.add(Row("claim_complete", "batch 10, 16 clients, half rate, p99", "ms", tails))
