// A batch through the Node SDK: `node scenario.mjs BASE_URL FOLDER`. Ends with one line of JSON, or with an error.
//
// The file is sent as a read stream before the purpose, chunked and without a length (openai-contract 0.1).
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import OpenAI from "openai";

const [baseURL, folder] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 0 });
const input = path.join(folder, "größe.jsonl");
const line = (id) => ({
  custom_id: id,
  method: "POST",
  url: "/v1/chat/completions",
  body: { model: "echo", messages: [{ role: "user", content: `hello ${id}` }] },
});
fs.writeFileSync(input, Array.from({ length: 40 }, (_, n) => JSON.stringify(line(`node-${n}`))).join("\r\n"));

const file = await client.files.create({ file: fs.createReadStream(input), purpose: "batch" });
assert.equal(file.status, "processed");
assert.equal(file.bytes, fs.statSync(input).size);
assert.equal((await client.files.waitForProcessing(file.id)).id, file.id);
const unnamed = await client.files.create({ file: await OpenAI.toFile(Buffer.from("{}")), purpose: "batch" });
assert.equal(unnamed.purpose, "batch");
assert.deepEqual(await client.files.delete(unnamed.id), { id: unnamed.id, object: "file", deleted: true });

let batch = await client.batches.create({
  input_file_id: file.id,
  endpoint: "/v1/chat/completions",
  completion_window: "24h",
  metadata: { from: "node" },
});
assert.equal(batch.status, "validating");
while (!["completed", "failed", "expired", "cancelled"].includes(batch.status)) {
  await new Promise((resolve) => setTimeout(resolve, 50));
  batch = await client.batches.retrieve(batch.id);
}
assert.equal(batch.status, "completed");
assert.deepEqual(batch.request_counts, { total: 40, completed: 40, failed: 0 });
const output = await (await client.files.content(batch.output_file_id)).text();
const ids = output.trimEnd().split("\n").map((text) => JSON.parse(text).custom_id);
assert.deepEqual(ids, Array.from({ length: 40 }, (_, n) => `node-${n}`));

const listed = [];
for await (const item of client.batches.list({ limit: 1 })) {
  listed.push(item.id);
  if (listed.length === 2) break;
}
assert.equal(listed[0], batch.id);
const refused = await client.batches.cancel(batch.id).then(() => null, (error) => error);
assert.equal(refused.status, 409);
assert.match(refused.requestID, /^req_/);
const missing = await client.files.retrieve("file-missing").then(() => null, (error) => error);
assert.ok(missing instanceof OpenAI.NotFoundError);

const parts = fs.readFileSync(input);
const upload = await client.uploads.create({
  bytes: parts.length,
  filename: "parts.jsonl",
  mime_type: "application/jsonl",
  purpose: "batch",
});
const half = Math.floor(parts.length / 2);
const added = await Promise.all(
  [parts.subarray(0, half), parts.subarray(half)].map(async (data) =>
    client.uploads.parts.create(upload.id, { data: await OpenAI.toFile(data) }),
  ),
);
const done = await client.uploads.complete(upload.id, { part_ids: added.map((part) => part.id) });
assert.equal(done.status, "completed");
assert.equal(await (await client.files.content(done.file.id)).text(), parts.toString());
console.log(JSON.stringify({ batch: batch.id, lines: ids.length }));
