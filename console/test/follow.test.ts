import assert from "node:assert/strict";
import test from "node:test";
import { Cursor, follow } from "../src/api/follow.ts";
import type { Api, Query } from "../src/api/http.ts";

Object.assign(globalThis, { window: new EventTarget(), document: new EventTarget() });

/** A server whose streams are these, one after the other; what was asked for is in `asked`. */
function served(streams: [gap: string, frames: string][], asked: unknown[], end: AbortController): Api {
  const stream = (_path: string, query: Query) => {
    asked.push(query["after"]);
    const [gap, frames] = streams.shift() ?? ["0", ""];
    if (streams.length === 0) end.abort();
    return Promise.resolve(new Response(frames, { headers: { "X-Log-Gap": gap } }));
  };
  return { stream } as unknown as Api;
}

test("what the log has lost behind my back is read again, once", async () => {
  const [asked, seen]: [unknown[], number[]] = [[], []];
  const end = new AbortController();
  const server = served(
    [["0", "id: 50\ndata: {}\n\n"], ["42", "id: 51\ndata: {}\n\n"], ["0", "id: 42\ndata: {}\n\n"], ["42", ""]], asked, end,
  );
  const what = { path: "events", cursor: new Cursor(49), onBatch: ({ id }: { id: number }) => void seen.push(id), onConnected: () => {} };
  await follow(server, what, end.signal);

  assert.deepEqual([asked, seen], [[49, 50, 41, 42], [50, 42]]);
});
