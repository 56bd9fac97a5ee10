// Handlers of the example: counts the words of documents. See words.sql for the workflow.
'use strict';

const { GiveUp, Result, Retry } = require('./worker.js');

// Makes a step for every few documents.
async function split(step) {
    const { documents } = step.context;
    if (!documents?.length) throw new GiveUp('there are no documents');
    const size = step.inputs.documents_per_step ?? 2;
    const createSteps = [];
    for (let first = 0; first < documents.length; first += size) {
        const last = Math.min(first + size, documents.length);
        createSteps.push({ name: 'count', as: `count ${first + 1} to ${last}`, inputs: { from: first, to: last } });
    }
    return new Result({ documents: documents.length }, { createSteps });
}

// Counts the words of its documents; an attempt goes on where the last one had come to.
async function count(step) {
    let done = step.saved ?? { next: step.inputs.from, words: 0 };
    const resumedAt = done.next;
    for (let i = done.next; i < step.inputs.to; i++) {
        step.check();
        await new Promise((resolve) => setTimeout(resolve, 1000 * (step.context.seconds_per_document ?? 0))); // some length
        done = { next: i + 1, words: done.words + step.context.documents[i].split(/\s+/).filter(Boolean).length };
        await step.save(done);
    }
    return { words: done.words, resumed_at: resumedAt };
}

async function total(step) {
    return { words: Object.values(await step.results()).reduce((sum, part) => sum + part.words, 0) };
}

// Writes the total into a table of ours, in the transaction that completes the step. The printer is out of paper at
// times.
async function publish(step) {
    if (step.attempt <= (step.context.failures ?? 0)) throw new Retry('out of paper', 0);
    const { words } = (await step.results()).total;
    return new Result({ published: true }, {
        inTransaction: (client) => client.query('insert into words.total (task_uuid, words) values ($1, $2)', [step.taskUuid, words]),
    });
}

module.exports.register = (worker) => {
    for (const work of [split, count, total, publish]) worker.handler(work.name, work);
};
