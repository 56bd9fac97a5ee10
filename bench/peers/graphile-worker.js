// Installs graphile-worker by its own migrations and prints the statements of add_job, add_jobs, its batch
// fetch and its batch completion. Arguments: folder of node_modules, connection string.
"use strict";
const path = require("path");
const { Recorder, PAYLOAD, BATCH, FLOW } = require("./capture.js");

async function main(modules, connectionString) {
  const { Pool } = require(path.join(modules, "pg"));
  const root = path.join(modules, "graphile-worker");
  const { makeWorkerUtils } = require(root);
  const { processSharedOptions } = require(path.join(root, "dist/lib.js"));
  const { batchGetJobs } = require(path.join(root, "dist/sql/getJobs.js"));
  const { batchCompleteJobs } = require(path.join(root, "dist/sql/completeJobs.js"));

  const pgPool = new Pool({ connectionString });
  const recorder = new Recorder(pgPool);
  pgPool.on("connect", (client) => {
    const query = client.query;
    client.query = function (...args) {
      const [first, values] = args;
      recorder.note(typeof first === "string" ? first : first.text, first.values ?? values);
      return query.apply(client, args);
    };
  });
  const utils = await makeWorkerUtils({ pgPool });
  await utils.migrate();

  const options = processSharedOptions({ pgPool });
  const withPgClient = async (callback) => {
    const client = await pgPool.connect();
    try {
      return await callback(client);
    } finally {
      client.release();
    }
  };
  withPgClient.withRetries = withPgClient;

  const specs = [{ identifier: FLOW, payload: PAYLOAD }, { identifier: FLOW, payload: PAYLOAD }];
  const single = await recorder.of(/add_job/, () => utils.addJob(FLOW, PAYLOAD));
  const batch = await recorder.of(/add_jobs/, () => utils.addJobs(specs));
  const claim = await recorder.of(/skip locked/, () =>
    batchGetJobs(options, withPgClient, { [FLOW]: async () => {} }, "bench-worker", null, BATCH));
  const ids = claim.result.map((job) => job.id);
  const complete = await recorder.of(/delete from/, () =>
    batchCompleteJobs(options, withPgClient, "bench-worker", claim.result));

  await utils.release();
  await pgPool.end();
  const version = require(path.join(root, "package.json")).version;
  console.log(JSON.stringify({
    version, ids,
    jobs: batch.statement.values[0],
    statements: {
      enqueue_single: single.statement, enqueue_batch: batch.statement,
      claim: claim.statement, complete: complete.statement,
    },
  }));
  process.exit(0);
}

main(process.argv[2], process.argv[3]).catch((error) => { console.error(error); process.exit(1); });
