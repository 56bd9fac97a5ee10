// A worker for the steps of workflows, made to be copied: one file, nothing but node-postgres (npm install pg).
//
//     const { Worker, Result, Retry, GiveUp } = require('./worker.js');
//
//     const worker = new Worker('shop');
//     worker.handler('charge_card', async (step) => {
//         const receipt = await bank.charge(step.context.card, (await step.results()).price.total);
//         return { receipt };
//     });
//     worker.run();
//
// What a handler returns is the step's result; a Result says more. Any exception is a failure, and the step is tried
// again as its template says; Retry says when, and GiveUp that trying again is of no use. Connects with the usual PG*
// variables, or as `connection` says.
//
// What it takes care of:
//   - It waits for work without polling, and holds no transaction open while it waits or while a handler runs.
//   - Leases are extended by a second connection for as long as a handler runs. A worker that dies stops doing so, and
//     its steps are given to others soon after.
//   - A step that was given to somebody else, cancelled or reset meanwhile is dropped: its token is not valid any more,
//     so nothing can be reported twice. Handlers that run long ask step.check() now and then.
//   - SIGTERM and SIGINT: steps that have not begun are given back at once, the one under way at its next check() or
//     save(), else it is finished first. Given back means that no attempt is lost, and what was saved is kept.
//   - When the server goes away, it connects anew, with growing pauses, and reports what was finished meanwhile.
'use strict';

const os = require('os');
const path = require('path');
const { Client } = require('pg');

const FIRST_PAUSE_MS = 100; // before the server is tried again; doubled each time
const LONGEST_PAUSE_MS = 5000;
const LONGEST_WAIT = '20 seconds'; // in one call

const QUERY_CANCELED = '57014';
// What the server says of a step that is done, given to somebody else, cancelled, reset, or gone.
const isNotOurs = (error) => error.code === '55000' || error.code === '42704';

// The step has failed and is to be tried again after so many seconds, if it has attempts left.
class Retry extends Error {
    constructor(message, afterSeconds = null) {
        super(message);
        this.name = 'Retry';
        this.afterSeconds = afterSeconds;
    }
}

// The step has failed, and would fail again.
class GiveUp extends Error {
    constructor(message) {
        super(message);
        this.name = 'GiveUp';
    }
}

// The step is not ours any more: what was done for it is to be dropped.
class LeaseLost extends Error {}

// The worker is to end.
class Stopping extends Error {}

// What a handler may return instead of a plain value. createSteps is for steps of type batch and decision: names, or
// {name, as, inputs}. inTransaction is called with the client, inside of the transaction that completes the step: what
// it writes is there if and only if the step is done.
class Result {
    constructor(results, { createSteps = null, inTransaction = null } = {}) {
        this.results = results;
        this.createSteps = createSteps;
        this.inTransaction = inTransaction;
    }
}

const log = (...words) => console.error(new Date().toISOString(), ...words);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
// Does the error come from the connection, and not from a statement or a handler? 57P01 to 57P03: the server goes down
// or comes up. Errors of node-postgres itself have no code.
const isConnectionError = (error) => error.code === undefined
    ? /^(Connection terminated|Client has|Client was)/.test(error.message)
    : /^(08|57P|E[A-Z]+$)/.test(error.code);

// A claimed step, as handlers get it.
class Step {
    constructor(worker, row) {
        this.worker = worker;
        this.uuid = row.workflow_step_uuid;
        this.taskUuid = row.task_uuid;
        this.task = row.task_name;
        this.name = row.step_name;
        this.handler = row.handler;
        this.attempt = row.attempts;
        this.inputs = row.inputs ?? {};
        this.context = row.context;
        this.dependencyResults = row.dependency_results;
        this.saved = row.checkpoint; // what save() was told last, by whichever attempt
        this.correlationId = row.correlation_id;
        this.token = row.lease_token; // a string: it does not fit a number
        this.lost = false;
    }

    toString() {
        return `step ${this.name} of task ${this.task} (${this.uuid}, attempt ${this.attempt})`;
    }

    // The results of the steps that this one depends on, by name. Of very many they are fetched when asked for.
    async results() {
        if (this.dependencyResults === null) {
            const { rows } = await this.worker.insist('select step_name, results from tasker.step_results($1)', [this.uuid]);
            this.dependencyResults = Object.fromEntries(rows.map((row) => [row.step_name, row.results]));
        }
        return this.dependencyResults;
    }

    // Throws LeaseLost when the step is not ours any more, and Stopping when the worker is to end.
    check() {
        if (this.lost) throw new LeaseLost(`${this} was taken away`);
        if (this.worker.stopping) throw new Stopping();
    }

    // Notes how far the step has come, for the attempt that follows if this one does not come to its end.
    async save(checkpoint) {
        await this.worker.insist('select tasker.checkpoint_step($1, $2, $3)', [this.uuid, JSON.stringify(checkpoint), this.token]);
        this.saved = checkpoint;
        this.check();
    }
}

// A connection that is made when it is needed, and again when it has broken.
class Connection {
    constructor(options) {
        this.options = options;
        this.client = null;
    }

    async get() {
        if (this.client === null) {
            const client = new Client(this.options);
            // Without a listener a broken idle connection would end the process.
            client.on('error', () => this.drop(client));
            client.on('end', () => this.drop(client));
            await client.connect();
            this.client = client;
        }
        return this.client;
    }

    drop(client) {
        if (this.client === client) this.client = null;
    }

    async close() {
        const client = this.client;
        this.client = null;
        if (client !== null) await client.end().catch(() => {});
    }
}

// Claims steps of a namespace and runs the handlers for them, one step after the other.
class Worker {
    constructor(namespace, { connection = {}, name = `${os.hostname()}:${process.pid}`, batch = 1, leaseSeconds = 30 } = {}) {
        Object.assign(this, { namespace, name, batch, leaseSeconds });
        const options = { ...connection, application_name: name };
        this.connection = new Connection(options);
        this.second = new Connection(options); // for leases, and to wake us from waiting
        this.handlers = new Map();
        this.held = new Map();
        this.stopping = false;
        this.waitingPid = null;
    }

    handler(name, work) {
        this.handlers.set(name, work);
    }

    // Works until SIGTERM or SIGINT.
    async run() {
        for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => this.stop(signal));
        this.heartbeat = setInterval(() => this.extendLeases(), (this.leaseSeconds * 1000) / 3);
        while (!this.stopping) {
            try {
                if (!(await this.workOff(await this.claim()))) await this.wait();
            } catch (error) {
                if (!isConnectionError(error)) throw error;
                await this.connectAgain(error);
            }
        }
        clearInterval(this.heartbeat);
        await this.connection.close();
        await this.second.close();
    }

    async stop(signal) {
        log(`${signal}: ending`);
        this.stopping = true;
        if (this.waitingPid === null) return;
        try {
            await (await this.second.get()).query('select pg_cancel_backend($1)', [this.waitingPid]);
        } catch (error) {
            log(`could not end the wait at once: ${error.message}`);
        }
    }

    // --- the server -------------------------------------------------------------------------------------------------

    async query(text, values) {
        return (await this.connection.get()).query(text, values);
    }

    // The same, again on a new connection when this one breaks; for what may be done twice.
    async insist(text, values) {
        for (;;) {
            try {
                return await this.query(text, values);
            } catch (error) {
                if (!isConnectionError(error)) throw error;
                await this.connectAgain(error);
                if (this.stopping) throw new Stopping();
            }
        }
    }

    // Returns when the server is there again, or the worker is to end.
    async connectAgain(error) {
        log(`the server is gone, connecting anew: ${error.message}`);
        for (let ms = FIRST_PAUSE_MS; !this.stopping; ms = Math.min(2 * ms, LONGEST_PAUSE_MS)) {
            try {
                await this.connection.close();
                await this.connection.get();
                return;
            } catch {
                await pause(ms);
            }
        }
    }

    // Sleeps until a step is ready for one of our handlers; the server wakes us.
    async wait() {
        try {
            this.waitingPid = (await this.connection.get()).processID;
            if (!this.stopping)
                await this.query('call tasker.wait_for_steps($1, $2, $3)', [this.namespace, LONGEST_WAIT, [...this.handlers.keys()]]);
        } catch (error) {
            if (!(this.stopping && error.code === QUERY_CANCELED)) throw error;
        } finally {
            this.waitingPid = null;
        }
    }

    async claim() {
        const { rows } = await this.query('select * from tasker.claim_steps($1, $2, $3, $4, $5)', [
            this.namespace, this.batch, this.name, `${this.leaseSeconds} seconds`, [...this.handlers.keys()]]);
        return rows.map((row) => new Step(this, row));
    }

    async extendLeases(steps = [...this.held.values()]) {
        if (steps.length === 0) return;
        try {
            await (await this.second.get()).query('select tasker.extend_step_lease($1::uuid[], $2, $3::bigint[])', [
                steps.map((step) => step.uuid), `${this.leaseSeconds} seconds`, steps.map((step) => step.token)]);
        } catch (error) {
            if (!isNotOurs(error)) {
                log(`leases could not be extended, trying again: ${error.message}`);
            } else if (steps.length === 1) {
                steps[0].lost = true;
                this.held.delete(steps[0].uuid);
            } else { // all or nothing: find out which
                for (const step of steps) await this.extendLeases([step]);
            }
        }
    }

    // --- steps ------------------------------------------------------------------------------------------------------

    // Does claimed steps one by one; false when there were none.
    async workOff(steps) {
        for (const step of steps) this.held.set(step.uuid, step);
        for (const [i, step] of steps.entries()) {
            try {
                if (this.stopping) throw new Stopping();
                await this.do(step);
            } catch (error) {
                if (!(error instanceof Stopping)) throw error;
                await this.release(steps.slice(i));
                break;
            } finally {
                this.held.delete(step.uuid);
            }
        }
        return steps.length > 0;
    }

    async do(step) {
        let result;
        try {
            result = await this.handlers.get(step.handler)(step);
            if (!(result instanceof Result)) result = new Result(result);
        } catch (error) {
            if (error instanceof Stopping) throw error;
            if (error instanceof LeaseLost || isNotOurs(error)) {
                log(`dropping the work for ${step}: ${error.message}`);
                return;
            }
            await this.report(step, () => this.fail(step, error, !(error instanceof GiveUp), error.afterSeconds ?? null));
            return;
        }
        await this.report(step, () => this.complete(step, result));
    }

    async complete(step, result) {
        const client = await this.connection.get();
        await client.query('begin');
        try {
            if (result.inTransaction !== null) await result.inTransaction(client);
            await client.query('select tasker.complete_step($1, $2, $3, $4)', [
                step.uuid, JSON.stringify(result.results ?? null),
                result.createSteps === null ? null : JSON.stringify(result.createSteps), step.token]);
            await client.query('commit');
        } catch (error) {
            await client.query('rollback').catch(() => {});
            throw error;
        }
        log(`${step} is done`);
    }

    async fail(step, error, retryable, afterSeconds) {
        const { rows } = await this.query('select tasker.fail_step($1, $2, $3, $4, $5) as state', [
            step.uuid, JSON.stringify({ type: error.name, message: error.message }), retryable, afterSeconds, step.token]);
        log(`${step} failed: ${error.message}; it is in state ${rows[0].state} now`);
    }

    // Says how a step has ended, on a new connection if need be. When the connection breaks in the middle, nobody knows
    // whether the server has heard it. Saying it again does no harm: if it has, or if the step has been given to another
    // worker meanwhile, our token is not valid any more.
    async report(step, how) {
        for (let refused = false; ; ) {
            try {
                await how();
                return;
            } catch (error) {
                if (isNotOurs(error)) {
                    log(`dropping the work for ${step}: ${error.message}`);
                    return;
                }
                if (isConnectionError(error)) {
                    await this.connectAgain(error);
                    if (this.stopping && this.connection.client === null) return; // its lease will end
                } else { // what the handler has returned or written is refused
                    if (refused) throw error;
                    refused = true;
                    how = () => this.fail(step, error, true, null);
                }
            }
        }
    }

    // Gives steps back. Each by itself: one that was taken away must not keep the others.
    async release(steps) {
        for (const step of steps) {
            try {
                await this.query('select tasker.release_steps(array[$1::uuid], array[$2::bigint])', [step.uuid, step.token]);
                log(`${step} is given back`);
            } catch (error) {
                log(`${step} could not be given back: ${error.message}`);
            }
            this.held.delete(step.uuid);
        }
    }
}

module.exports = { Worker, Step, Result, Retry, GiveUp, LeaseLost };

// node worker.js NAMESPACE HANDLERS.js [NAME [LEASE_SECONDS [BATCH]]]: the file exports a function register(worker).
if (require.main === module) {
    const [namespace, handlers, name, leaseSeconds, batch] = process.argv.slice(2);
    if (handlers === undefined) {
        console.error('usage: node worker.js NAMESPACE HANDLERS.js [NAME [LEASE_SECONDS [BATCH]]]');
        process.exit(2);
    }
    const worker = new Worker(namespace, {
        ...(name && { name }), ...(leaseSeconds && { leaseSeconds: Number(leaseSeconds) }), ...(batch && { batch: Number(batch) }),
    });
    require(path.resolve(handlers)).register(worker);
    worker.run().catch((error) => {
        console.error(error);
        process.exit(1);
    });
}
