import assert from "node:assert/strict";
import test, { type TestContext } from "node:test";
import { Cursor, follow, insist, SILENCE_MS } from "../src/api/follow.ts";
import { type Api, ApiError, type Query, Unreachable } from "../src/api/http.ts";

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

/** Streams in which nothing comes, each for as long as nobody hangs up; when they were begun is in `begun`. */
function silent(begun: number[], now: () => number): Api {
  const stream = (_path: string, _query: Query, signal: AbortSignal) => {
    begun.push(now());
    const body = new ReadableStream({ start: (to) => signal.addEventListener("abort", () => to.error(signal.reason)) });
    return Promise.resolve(new Response(body));
  };
  return { stream } as unknown as Api;
}

/** Let what has been started go on until it waits. */
async function settled(): Promise<void> {
  for (let round = 0; round < 50; round += 1) await new Promise(setImmediate);
}

test("a stream in which nothing comes for 45 s is dead, and tried again soon", async ({ mock }) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  mock.method(Math, "random", () => 0.5);
  let now = 0;
  const pass = async (ms: number) => { now += ms; mock.timers.tick(ms); await settled(); };
  const [begun, connected]: [number[], boolean[]] = [[], []];
  const end = new AbortController();
  const what = { path: "events", cursor: new Cursor(0), onBatch: () => {}, onConnected: (is: boolean) => void connected.push(is) };
  const following = follow(silent(begun, () => now), what, end.signal);
  await settled();
  await pass(SILENCE_MS - 1);
  assert.deepEqual([begun, connected], [[0], [true]]);
  await pass(1);
  assert.deepEqual(connected, [true, false]);
  await pass(200);
  assert.deepEqual([begun, connected], [[0, 45_200], [true, false, true]]);
  end.abort();
  await following;
});

test("pauses grow from a fifth of a second to five seconds, and end at once when the network is back", async ({ mock }) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  mock.method(Math, "random", () => 0.5);
  let asked = 0;
  const refusing = { stream: () => { asked += 1; return Promise.reject(new Unreachable("away")); } } as unknown as Api;
  const end = new AbortController();
  const following = follow(refusing, { path: "events", cursor: new Cursor(0), onBatch: () => {}, onConnected: () => {} }, end.signal);
  await settled();
  for (const [round, pause] of [200, 400, 800, 1600, 3200, 5000, 5000].entries()) {
    mock.timers.tick(pause - 1);
    await settled();
    assert.equal(asked, round + 1);
    mock.timers.tick(1);
    await settled();
    assert.equal(asked, round + 2);
  }
  for (const [target, name] of [[window, "online"], [window, "pointerdown"], [document, "visibilitychange"]] as const) {
    const before = asked;
    target.dispatchEvent(new Event(name));
    await settled();
    assert.equal(asked, before + 1, name);
  }
  end.abort();
  await following;
});

/** `mock` with a clock that goes by to the millisecond: the pauses between the attempts that `tries` makes. */
async function pausesOf(mock: TestContext["mock"], dice: number[], reason: Error, tries: (refusing: Api, signal: AbortSignal) => Promise<unknown>) {
  mock.timers.enable({ apis: ["setTimeout"] });
  mock.method(Math, "random", () => dice.shift() ?? 0.5);
  const asked: number[] = [];
  let now = 0;
  const wanted = dice.length + 1;
  const refusing = { stream: () => { asked.push(now); return Promise.reject(reason); } } as unknown as Api;
  const end = new AbortController();
  const trying = tries(refusing, end.signal).catch(() => {});
  for (await settled(); asked.length < wanted; now += 10, mock.timers.tick(10)) await settled();
  end.abort();
  await trying;
  return asked.slice(1).map((at, index) => at - (asked[index] ?? 0));
}

const WAYS = {
  follow: (api: Api, signal: AbortSignal) =>
    follow(api, { path: "events", cursor: new Cursor(0), onBatch: () => {}, onConnected: () => {} }, signal),
  insist: (api: Api, signal: AbortSignal) => insist(api, signal, () => api.stream("messages", {}, signal), () => {}),
};

for (const [name, way] of Object.entries(WAYS)) {
  test(`${name}: pauses are not the same for all who wait`, async ({ mock }) => {
    assert.deepEqual(await pausesOf(mock, [0, 0.5, 0.9999, 0], new Unreachable("away"), way), [150, 400, 1000, 1200]);
  });

  test(`${name}: who is told how long to wait waits no less`, async ({ mock }) => {
    assert.deepEqual(await pausesOf(mock, [0, 0.5], new ApiError(503, "shutting_down", "later", [], null, 2), way), [2150, 2400]);
  });
}
