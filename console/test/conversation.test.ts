import assert from "node:assert/strict";
import test from "node:test";
import type { Api } from "../src/api/http.ts";
import { Conversation } from "../src/model/conversation.ts";

test("what comes is in the model at once, and the view hears of it once for each picture", async () => {
  const pictures: (() => void)[] = [];
  Object.assign(globalThis, {
    window: new EventTarget(), document: Object.assign(new EventTarget(), { hidden: false }),
    requestAnimationFrame: (draw: () => void) => pictures.push(draw), cancelAnimationFrame: () => {},
  });
  Object.defineProperty(globalThis, "navigator", { value: {}, configurable: true });
  let feed = (_text: string) => {};
  const body = new ReadableStream<Uint8Array>({ start: (to) => void (feed = (text) => to.enqueue(new TextEncoder().encode(text))) });
  const page = { messages: [], eventIds: [], firstEventId: 0, lastEventId: 0, upToEventId: 0, jobs: [] };
  const api = { get: () => Promise.resolve(page), stream: () => Promise.resolve(new Response(body)) } as unknown as Api;
  const conversation = new Conversation(api, "s");
  const settled = async () => { for (let round = 0; round < 50; round += 1) await new Promise(setImmediate); };
  conversation.open();
  await settled();
  pictures.splice(0).forEach((draw) => draw());
  const before = conversation.version.value;
  for (let id = 1; id <= 20; id += 1) {
    feed(`data: {"type":"novelty"}\nid: ${id}\n\n`);
    await settled();
    assert.equal(conversation.transcript.rows.length, id);
  }
  assert.deepEqual([conversation.version.value, pictures.length], [before, 1]);
  pictures.splice(0).forEach((draw) => draw());
  assert.equal(conversation.version.value, before + 1);
  conversation.close();
});
