import assert from "node:assert/strict";
import test from "node:test";
import { type Row, Transcript } from "../src/model/transcript.ts";

const update = (fields: object) => JSON.stringify({ sessionId: "s", update: fields });
const words = (kind: string, text: string, messageId?: string) =>
  update({ sessionUpdate: kind, content: { type: "text", text }, messageId });
const call = (fields: object) => update({ sessionUpdate: "tool_call_update", toolCallId: "c", ...fields });
const asked = JSON.stringify({
  type: "permission_request", requestId: "q", taskId: "t", kind: "permission", tool: "Bash", title: "Bash: ls",
  input: { command: "ls" }, options: [{ decision: "allow" }, { decision: "allow", remember: "session" }],
});

function rowsOf(...events: string[]): Row[] {
  const transcript = new Transcript();
  events.forEach((frame, index) => transcript.apply(index + 1, [frame]));
  return transcript.rows;
}

test("pieces of a message are one row", () => {
  const rows = rowsOf(words("agent_message_chunk", "Hel", "m"), words("agent_message_chunk", "lo", "m"));
  assert.deepEqual(rows.map((row) => row.kind === "text" && row.text), ["Hello"]);
});

test("a call keeps what an update does not name", () => {
  const [row] = rowsOf(
    call({ title: "ls", kind: "execute", status: "in_progress" }),
    call({ _meta: { agentsrv: { output: "a\n" } } }),
    call({ _meta: { agentsrv: { output: "b\n" } } }),
    call({ status: "failed", rawOutput: { exitCode: 2 } }),
  );
  assert.ok(row?.kind === "call");
  assert.deepEqual([row.title, row.tool, row.status, row.output, row.exitCode], ["ls", "execute", "failed", "a\nb\n", 2]);
});

test("a question knows its answer", () => {
  const resolved = JSON.stringify({ type: "permission_resolved", requestId: "q", taskId: "t", decision: "allow" });
  const [row] = rowsOf(asked, resolved);
  assert.ok(row?.kind === "question");
  assert.deepEqual([row.question.canRemember, row.answer], [true, { decision: "allow" }]);
});

test("an id that an agent uses again in another turn is another question", () => {
  const of = (taskId: string, frame: string) => JSON.stringify({ ...(JSON.parse(frame) as object), taskId });
  const resolved = JSON.stringify({ type: "permission_resolved", requestId: "q", decision: "deny" });
  const rows = rowsOf(of("t1", asked), of("t1", resolved), of("t2", asked));
  assert.deepEqual(rows.map((row) => row.kind === "question" && row.answer), [{ decision: "deny" }, null]);
});

test("a question knows its answer, wherever a page ends between them", () => {
  const resolved = JSON.stringify({ type: "permission_resolved", requestId: "q", taskId: "t", decision: "allow" });
  const transcript = new Transcript();
  transcript.apply(9, [resolved]);
  [words("agent_message_chunk", "between", "m"), asked].forEach((frame, index) => {
    const before = new Transcript(`p${index}`);
    before.apply(8 - index, [frame]);
    transcript.prepend(before);
  });
  assert.deepEqual(transcript.rows.map((row) => row.kind === "question" && row.answer), [{ decision: "allow" }, false]);
});

test("a gap voids what came after it", () => {
  const gap = JSON.stringify({ type: "gap", after: 1 });
  const rows = rowsOf(words("agent_message_chunk", "kept", "m"), words("agent_message_chunk", "void", "n"), gap);
  assert.deepEqual(rows.map((row) => row.kind), ["text", "gap"]);
});

test("what nobody knows is a row of its own", () => {
  const rows = rowsOf("not json", "[1]", update({ sessionUpdate: "novelty" }), JSON.stringify({ type: "novelty" }));
  assert.deepEqual(rows.map((row) => row.kind), ["raw", "raw", "raw", "raw"]);
});

test("an image's type becomes part of a URL only when it is an image's", () => {
  const image = (mimeType: string) =>
    update({ sessionUpdate: "user_message_chunk", messageId: mimeType, content: { type: "image", mimeType, data: "AA==" } });
  const rows = rowsOf(image("image/png"), image("text/html;x"));
  assert.deepEqual(rows.map((row) => row.kind === "user" && row.images), [["data:image/png;base64,AA=="], [""]]);
});
