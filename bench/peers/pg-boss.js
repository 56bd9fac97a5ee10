// Installs pg-boss by its own migrations and prints the statements of send, insert, fetch and complete.
// Arguments: folder of node_modules, connection string.
"use strict";
const path = require("path");
const { Recorder, PAYLOAD, BATCH, FLOW } = require("./capture.js");

async function main(modules, connectionString) {
  const { Client } = require(path.join(modules, "pg"));
  const loaded = require(path.join(modules, "pg-boss"));
  const PgBoss = loaded.PgBoss ?? loaded.default ?? loaded;
  const client = new Client({ connectionString });
  await client.connect();
  const recorder = new Recorder(client);
  const executeSql = async (text, values) => {
    recorder.note(text, values);
    return await client.query(text, values);
  };
  const boss = new PgBoss({ db: { executeSql }, schedule: false, supervise: false });
  boss.on("error", (error) => { throw error; });
  await boss.start();
  await boss.createQueue(FLOW);

  const jobs = [{ name: FLOW, data: PAYLOAD }, { name: FLOW, data: PAYLOAD }];
  const single = await recorder.of(/INSERT INTO/, () => boss.send(FLOW, PAYLOAD));
  const batch = await recorder.of(/INSERT INTO/, () => boss.insert(jobs));
  const claim = await recorder.of(/SKIP LOCKED/, () => boss.fetch(FLOW, { batchSize: BATCH }));
  const ids = claim.result.map((job) => job.id);
  const complete = await recorder.of(/UPDATE/, () => boss.complete(FLOW, ids));

  await boss.deleteAllJobs?.(FLOW);
  await client.query("truncate pgboss.job");
  await client.end();
  const version = require(path.join(modules, "pg-boss", "package.json")).version;
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
