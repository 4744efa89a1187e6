import assert from "node:assert/strict";
import test from "node:test";
import { areAll, asBatches } from "../src/model/history.ts";
import { type Row, Transcript } from "../src/model/transcript.ts";
import { matching } from "../src/model/find.ts";
import { type Shown, shown } from "../src/model/turns.ts";
import type { Job } from "../src/api/types.ts";

const update = (fields: object) => ({ sessionId: "s", update: fields });
const said = (text: string, messageId: string) =>
  update({ sessionUpdate: "agent_message_chunk", content: { type: "text", text }, messageId });
const prompt = (text: string) => update({ sessionUpdate: "user_message_chunk", content: { type: "text", text }, messageId: text });
const call = (id: string, fields: object) => update({ sessionUpdate: "tool_call_update", toolCallId: id, ...fields });
const job = (taskId: string, lastEventId: number, fields: Partial<Job> = {}): Job => ({
  taskId, sessionId: "s", status: "completed", createdAt: "", firstEventId: 1, lastEventId, ...fields,
});

/** Two turns; the second one goes on with a message and a call that began before. */
const EVENTS: [number, object][] = [
  [1, prompt("first")],
  [3, call("a", { title: "ls", kind: "execute", status: "in_progress" })],
  [4, call("b", { title: "cat", status: "in_progress" })],
  [5, call("a", { status: "completed", content: [{ content: { type: "text", text: "out" } }] })],
  [6, call("b", { status: "failed" })],
  [7, said("An answer", "m1")],
  [10, prompt("second")],
  [11, said(", in two", "m2")],
  [13, said(" parts.", "m2")],
];
const JOBS = [job("t2", 14), job("t1", 8), job("t3", 0, { status: "queued" })];

function page(from: number, to: number, upToEventId: number) {
  const events = EVENTS.slice(from, to);
  return {
    messages: events.map(([, message]) => message), eventIds: events.map(([id]) => id),
    firstEventId: events[0]?.[0] ?? 0, lastEventId: events.at(-1)?.[0] ?? 0, upToEventId,
  };
}

function read(from: number, to: number, before: number, name = ""): Transcript {
  const transcript = new Transcript(name);
  for (const batch of asBatches(page(from, to, before - 1), JOBS)) transcript.apply(batch.id, batch.data);
  return transcript;
}

/** What a person sees of the rows. */
const seen = (rows: readonly Row[]) => rows.map((row) => JSON.stringify({ ...row, version: 0 }));

test("a page has its turns' ends where they were", () => {
  const rows = read(0, EVENTS.length, Infinity).rows;
  assert.deepEqual(rows.map((row) => row.kind), ["user", "call", "call", "text", "done", "user", "text", "done"]);
});

test("the end of a turn that ended behind the page comes with what follows", () => {
  const batches = asBatches(page(0, EVENTS.length, 13), JOBS);
  assert.deepEqual(batches.at(-1)?.id, 13);
});

test("jobs that were asked for with the page tell of all ends in it, unless a turn may have begun since", () => {
  const [ended, next] = [job("t1", 8), job("t2", 0, { status: "running", firstEventId: 9 })];
  const found = [page(0, 6, 8), page(0, 7, 10)].map((one) => [areAll([ended], one), areAll([next, ended], one)]);
  assert.deepEqual(found, [[true, false], [false, false]]);
  assert.ok(areAll([], { ...page(0, 0, 0) }));
});

test("pages that are put before each other give what one page gives, wherever they are cut", () => {
  const whole = seen(read(0, EVENTS.length, Infinity).rows);
  for (let cut = 1; cut < EVENTS.length; cut += 1) {
    const transcript = read(cut, EVENTS.length, Infinity);
    transcript.prepend(read(0, cut, EVENTS[cut]?.[0] ?? 0, "older"));
    assert.deepEqual(seen(transcript.rows), whole, `cut at ${cut}`);
  }
});

test("what comes later finds the rows of an older page", () => {
  const transcript = read(3, EVENTS.length, Infinity);
  transcript.prepend(read(0, 3, 5, "older"));
  transcript.apply(20, [JSON.stringify(call("a", { title: "renamed" }))]);
  assert.deepEqual(transcript.rows.filter((row) => row.kind === "call").map((row) => row.title), ["renamed", "cat"]);
});

test("a turn that has ended shows its answer, its steps when they are wanted", () => {
  const rows = read(0, EVENTS.length, Infinity).rows;
  const kinds = (found: Shown[]) => found.map((row) => row.kind);
  const folded = shown(rows, new Set());
  assert.deepEqual(kinds(folded), ["user", "steps", "text", "done", "user", "text", "done"]);
  const steps = folded[1];
  assert.ok(steps?.kind === "steps");
  assert.deepEqual([steps.steps, steps.failed, steps.taskId], [2, 1, "t1"]);
  assert.deepEqual(kinds(shown(rows, new Set([steps.key]))).slice(0, 5), ["user", "steps", "call", "call", "text"]);
});

test("why a turn has failed is said once", () => {
  const end = (error: string | null) => [{ kind: "error", key: "e", text: "lost" }, { kind: "done", key: "d", error }] as Row[];
  assert.deepEqual(shown(end("lost"), new Set()).map((row) => row.kind), ["done"]);
  assert.deepEqual(shown(end(null), new Set()).map((row) => row.kind), ["error", "done"]);
  assert.deepEqual(matching(end("lost"), "LOST").map((row) => row.kind), ["done"]);
});

test("a turn that runs is shown whole", () => {
  const rows = read(0, 6, 8).rows;
  assert.deepEqual(shown(rows, new Set()), rows);
});

test("what a subagent does is inside its call", () => {
  const inner = { _meta: { agentsrv: { parentToolCallId: "p" } } };
  const transcript = new Transcript();
  [call("p", { title: "explore", status: "in_progress" }), call("c", { title: "ls", ...inner }), said("outside", "m")].forEach(
    (message, index) => transcript.apply(index + 1, [JSON.stringify(message)]),
  );
  const [parent, text] = transcript.rows;
  assert.ok(parent?.kind === "call" && text?.kind === "text");
  assert.deepEqual(parent.children.map((row) => row.kind === "call" && row.title), ["ls"]);
});

test("a text without a name is one row, though a page ends in it", () => {
  const nameless = (text: string) => ({ sessionId: "s", update: { sessionUpdate: "agent_message_chunk", content: { type: "text", text } } });
  const transcript = new Transcript();
  transcript.apply(2, [JSON.stringify(nameless("two"))]);
  const before = new Transcript("p1");
  before.apply(1, [JSON.stringify(nameless("one, "))]);
  transcript.prepend(before);
  transcript.apply(3, [JSON.stringify(nameless(", three"))]);
  assert.deepEqual(transcript.rows.map((row) => row.kind === "text" && row.text), ["one, two, three"]);
});
