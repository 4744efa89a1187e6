import assert from "node:assert/strict";
import test from "node:test";
import { Batcher, FrameReader } from "../src/api/frames.ts";

const STREAM = 'retry: 1000\n\ndata: {"a":1}\n\nid: 3\ndata: {"b":2}\n\n: keepalive\n\ndata: {"c":"x"}\nid: 4\n\n';

test("a stream cut at any place gives the same frames", () => {
  const whole = new FrameReader().feed(STREAM);
  assert.deepEqual(whole.map((frame) => frame.id), [null, 3, 4]);
  for (let cut = 0; cut <= STREAM.length; cut += 1) {
    const reader = new FrameReader();
    assert.deepEqual([...reader.feed(STREAM.slice(0, cut)), ...reader.feed(STREAM.slice(cut))], whole);
  }
});

test("bytes cut anywhere, also within a letter, give the same frames", async () => {
  const bytes = new TextEncoder().encode('data: {"a":"ü€🙂"}\nid: 1\n\ndata: {"b":2}\nid: 2\n\n');
  const read = async (...parts: Uint8Array<ArrayBuffer>[]) => {
    const reader = new FrameReader();
    const frames = [];
    const stream = new ReadableStream<BufferSource>({ start: (to) => { parts.forEach((part) => to.enqueue(part)); to.close(); } });
    for await (const text of stream.pipeThrough(new TextDecoderStream())) frames.push(...reader.feed(text));
    return frames;
  };
  const whole = await read(bytes);
  assert.deepEqual(whole.map((frame) => frame.id), [1, 2]);
  for (let cut = 0; cut <= bytes.length; cut += 1) assert.deepEqual(await read(bytes.slice(0, cut), bytes.slice(cut)), whole);
});

test("frames without a number wait for the one that has it", () => {
  const batcher = new Batcher();
  const batches = new FrameReader().feed(STREAM).map((frame) => batcher.add(frame));
  assert.deepEqual(batches, [null, { id: 3, data: ['{"a":1}', '{"b":2}'] }, { id: 4, data: ['{"c":"x"}'] }]);
});
