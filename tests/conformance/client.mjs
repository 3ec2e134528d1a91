// What OpenAI's client for Node does with the server: one line of JSON for each check. SGG_BASE_URL, SGG_API_KEY, SGG_TRIAL_...
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import OpenAI, { toFile } from "openai";

const client = new OpenAI({ baseURL: process.env.SGG_BASE_URL, apiKey: process.env.SGG_API_KEY });
const trier = new OpenAI({ baseURL: process.env.SGG_TRIAL_BASE_URL, apiKey: process.env.SGG_TRIAL_API_KEY });
const model = "smollm2-135m-instruct";
const content = Array.from({ length: 16 }, (_, i) => JSON.stringify({ text: `example ${i}`, label: i % 2 ? "good" : "bad" }) + "\n").join("");
const upload = async (text = content) => client.files.create({ file: await toFile(Buffer.from(text), "train.jsonl"), purpose: "fine-tune" });
const all = async (pages) => { const items = []; for await (const item of pages) items.push(item); return items; };

const checks = {
  async files() {
    const file = await upload();
    assert.equal((await client.files.retrieve(file.id)).bytes, Buffer.byteLength(content));
    assert.equal(await (await client.files.content(file.id)).text(), content);
    assert.equal((await client.files.waitForProcessing(file.id, { pollInterval: 10 })).status, "processed");
    assert.ok((await all(client.files.list({ limit: 1 }))).some((one) => one.id === file.id));
    assert.equal((await client.files.delete(file.id)).deleted, true);
    await assert.rejects(client.files.retrieve(file.id), OpenAI.NotFoundError);
  },
  async jobs() {
    const training_file = (await upload()).id;
    const made = [];
    for (let i = 0; i < 5; i++) made.push((await client.fineTuning.jobs.create({ model, training_file, seed: i, metadata: { from: "node" } })).id);
    const listed = await all(client.fineTuning.jobs.list({ limit: 2, metadata: { from: "node" } }));
    assert.deepEqual(listed.map((job) => job.id), made.reverse());
    const bare = (await client.fineTuning.jobs.create({ model, training_file })).id;
    const unmarked = (await all(client.fineTuning.jobs.list({ metadata: null }))).map((job) => job.id);
    assert.ok(unmarked.includes(bare) && !made.some((id) => unmarked.includes(id)));
    assert.equal((await client.fineTuning.jobs.retrieve(made[0])).status, "queued");
    assert.equal((await client.fineTuning.jobs.pause(made[0])).status, "paused");
    assert.equal((await client.fineTuning.jobs.resume(made[0])).status, "queued");
    assert.equal((await client.fineTuning.jobs.cancel(made[0])).status, "cancelled");
    const events = await all(client.fineTuning.jobs.listEvents(made[0], { limit: 1 }));
    assert.ok(events.length >= 2 && events[0].message.includes("cancelled"));
    assert.deepEqual(await all(client.fineTuning.jobs.checkpoints.list(made[0])), []);
  },
  async sgg() {
    const training_file = (await upload()).id;
    const method = { type: "sgg", sgg: { hyperparameters: { guidance: { radius: 0.1 } } } };
    const job = await client.fineTuning.jobs.create({ model, training_file, method });
    assert.equal(job.method.sgg.hyperparameters.guidance.radius, 0.1);
    assert.equal(job.sgg.step, 0);
  },
  async models() {
    assert.ok((await all(client.models.list())).some((one) => one.id === model));
    await assert.rejects(client.models.retrieve("owner/none"), OpenAI.NotFoundError);
    await assert.rejects(client.models.delete(model), OpenAI.PermissionDeniedError);
  },
  async uploads() {
    const bytes = Buffer.byteLength(content);
    const begun = await client.uploads.create({ bytes, filename: "t.jsonl", mime_type: "text/jsonl", purpose: "fine-tune" });
    const halves = [content.slice(0, 100), content.slice(100)];
    const parts = [];
    for (const half of halves) parts.push((await client.uploads.parts.create(begun.id, { data: await toFile(Buffer.from(half), "part") })).id);
    const wrong = client.uploads.complete(begun.id, { part_ids: parts, md5: "0".repeat(32) });
    await assert.rejects(wrong, (error) => error instanceof OpenAI.BadRequestError && error.code === "upload_checksum_mismatch");
    const done = await client.uploads.complete(begun.id, { part_ids: parts });
    assert.equal(await (await client.files.content(done.file.id)).text(), content);
  },
  async errors() {
    await assert.rejects(upload(""), (error) => error instanceof OpenAI.BadRequestError && error.code === "invalid_file" && error.requestID.startsWith("req_"));
    await assert.rejects(client.fineTuning.jobs.create({ model: "none", training_file: "file-none" }), (error) => error.param === "model" && error.status === 400);
    await assert.rejects(new OpenAI({ baseURL: process.env.SGG_BASE_URL, apiKey: "sk-wrong" }).models.list(), OpenAI.AuthenticationError);
    await assert.rejects(client.get("/nothing"), OpenAI.NotFoundError);
    const graders = client.post("/fine_tuning/alpha/graders/validate", { body: { grader: {} } });
    await assert.rejects(graders, (error) => error.code === "not_offered");
  },
  async trials() {
    const few = { model: process.env.SGG_TRIAL_MODEL, max_tokens: 6, temperature: 0 };
    const messages = [{ role: "user", content: "say one" }];
    const whole = await trier.chat.completions.create({ ...few, messages });
    assert.equal(whole.usage.completion_tokens, 6);
    let text = "";
    for await (const chunk of await trier.chat.completions.create({ ...few, messages, stream: true })) text += chunk.choices[0]?.delta?.content ?? "";
    assert.equal(text, whole.choices[0].message.content);
    const prompted = await trier.completions.create({ ...few, prompt: "number 1:" });
    text = "";
    for await (const chunk of await trier.completions.create({ ...few, prompt: "number 1:", stream: true })) text += chunk.choices[0]?.text ?? "";
    assert.equal(text, prompted.choices[0].text);
    await assert.rejects(trier.chat.completions.create({ ...few, messages, model: "ft:none:p::x" }), OpenAI.NotFoundError);
  },
  async webhooks() {
    const key = Buffer.from("k".repeat(32));
    const payload = JSON.stringify({ id: "evt_1", object: "event", created_at: 1, type: "fine_tuning.job.succeeded", data: { id: "ftjob-1" } });
    const stamp = String(Math.floor(Date.now() / 1000));
    const signature = createHmac("sha256", key).update(`evt_1.${stamp}.${payload}`).digest("base64");
    const headers = { "webhook-id": "evt_1", "webhook-timestamp": stamp, "webhook-signature": `v1,${signature}` };
    const event = await client.webhooks.unwrap(payload, headers, `whsec_${key.toString("base64")}`);
    assert.equal(event.data.id, "ftjob-1");
  },
};

for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(JSON.stringify({ name, problem: null }));
  } catch (error) {
    console.log(JSON.stringify({ name, problem: String(error.stack ?? error) }));
  }
}
