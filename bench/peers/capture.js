// Writes down the statements that a library sends to the server, with their values.
//
// A library is driven through its own public calls; every statement and its values are kept, so that the
// bench drives the very same SQL through pgbench whatever the library's version is.
"use strict";

class Recorder {
  constructor(client) {
    this.client = client;
    this.last = null;
  }

  // The one statement that `call` sends, for the queries whose text matches `pattern`.
  async of(pattern, call) {
    this.last = null;
    this.pattern = pattern;
    const result = await call();
    if (!this.last) {
      throw new Error(`no statement matched ${pattern}`);
    }
    return { statement: this.last, result };
  }

  note(text, values) {
    if (this.pattern && this.pattern.test(text)) {
      this.last = { text, values: values ?? [] };
    }
  }
}

// Stand-ins that the Python side replaces by pgbench variables.
const PAYLOAD = { bench_payload: 1 };
const BATCH = 7777;
const FLOW = "bench";

module.exports = { Recorder, PAYLOAD, BATCH, FLOW };
