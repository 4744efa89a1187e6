/** Streams that come back by themselves: after a cut, a silence, a restart of the server, a sleep of the phone. */

import { type Batch, Batcher, type Frame, FrameReader } from "./frames.ts";
import { type Api, ApiError, type Query } from "./http.ts";

export const SILENCE_MS = 45_000;
const PAUSES_MS = { first: 200, longest: 5_000 };

export interface Stream {
  path: string;
  /** Asked before each attempt. */
  query(): Query;
  /** Whether what begins so is to be read. */
  isWanted?(head: Headers): boolean;
  onFrame(frame: Frame): void;
  /** True when the stream stands, false when it broke and is tried again. */
  onConnected(isConnected: boolean): void;
}

/**
 * Where somebody is in a log, for as long as they look at it.
 *
 * A machine that lost its power may have lost events that were shown, and its log have grown past them again. Streams
 * name the newest such gap before their place: one that was not there before is gone back to, for what came behind it
 * is void.
 */
export class Cursor {
  private gap: number | null = null;

  constructor(public after: number) {}

  /** False when it is a new one. */
  isBehind(gap: number): boolean {
    const isKnown = this.gap === null || gap <= this.gap;
    this.gap = gap;
    if (!isKnown) this.after = gap - 1;
    return isKnown;
  }
}

/** Follow a session's log from `cursor` on until `signal` aborts; every event comes once, all its frames together. */
export function follow(
  api: Api,
  what: Pick<Stream, "path" | "onConnected"> & { cursor: Cursor; onBatch(batch: Batch): void },
  signal: AbortSignal,
): Promise<void> {
  const { cursor } = what;
  let batcher = new Batcher();
  return keepOpen(
    api,
    {
      path: what.path,
      query: () => ({ format: "acp", after: cursor.after }),
      isWanted: (head) => cursor.isBehind(Number(head.get("X-Log-Gap") ?? 0)),
      onConnected: (isConnected) => {
        // What a cut has halved is asked for again.
        batcher = new Batcher();
        what.onConnected(isConnected);
      },
      onFrame: (frame) => {
        const batch = batcher.add(frame);
        if (batch === null) return;
        cursor.after = batch.id;
        what.onBatch(batch);
      },
    },
    signal,
  );
}

/** Read a stream again and again. Raises ApiError for what trying again does not mend, such as a session that is gone. */
export async function keepOpen(api: Api, stream: Stream, signal: AbortSignal): Promise<void> {
  let pause = PAUSES_MS.first;
  while (!signal.aborted) {
    let reason: unknown = null;
    try {
      await readOnce(api, stream, signal, () => (pause = PAUSES_MS.first));
    } catch (error) {
      if (error instanceof ApiError && !isPassing(error)) throw error;
      reason = error;
      if (error instanceof ApiError && error.status === 401) {
        await Promise.race([api.signedIn(), aborted(signal)]);
        continue;
      }
    }
    if (signal.aborted) return;
    stream.onConnected(false);
    await sleepUnlessWoken(pauseAfter(reason, pause), signal);
    pause = Math.min(pause * 2, PAUSES_MS.longest);
  }
}

async function readOnce(api: Api, stream: Stream, signal: AbortSignal, onNews: () => void): Promise<void> {
  const ended = new AbortController();
  const abort = () => ended.abort();
  signal.addEventListener("abort", abort);
  let silence = setTimeout(abort, SILENCE_MS);
  try {
    const response = await api.stream(stream.path, stream.query(), ended.signal);
    if (response.body === null || response.status === 204 || stream.isWanted?.(response.headers) === false) return;
    stream.onConnected(true);
    const frames = new FrameReader();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      clearTimeout(silence);
      silence = setTimeout(abort, SILENCE_MS);
      for (const frame of frames.feed(part.value)) {
        onNews();
        stream.onFrame(frame);
      }
    }
  } finally {
    clearTimeout(silence);
    signal.removeEventListener("abort", abort);
    ended.abort();
  }
}

/** As long as the server has asked for, and then a pause that is not the same for all who wait. */
function pauseAfter(reason: unknown, ms: number): number {
  const askedForS = (reason instanceof ApiError ? reason.retryAfterS : null) ?? 0;
  return askedForS * 1000 + ms * (0.75 + Math.random() / 2);
}

function isPassing(error: ApiError): boolean {
  return error.status === 401 || error.status === 429 || error.status >= 500;
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve()));
}

/** Ask until there is an answer. Raises ApiError for what asking again does not mend. */
export async function insist<T>(api: Api, signal: AbortSignal, ask: () => Promise<T>, onAway: () => void): Promise<T> {
  for (let pause = PAUSES_MS.first; ; pause = Math.min(pause * 2, PAUSES_MS.longest)) {
    try {
      return await ask();
    } catch (error) {
      if (signal.aborted || (error instanceof ApiError && !isPassing(error))) throw error;
      if (error instanceof ApiError && error.status === 401) await Promise.race([api.signedIn(), aborted(signal)]);
      else onAway();
      await sleepUnlessWoken(pauseAfter(error, pause), signal);
      if (signal.aborted) throw error;
    }
  }
}

/** Wait, but not once there is reason to believe that the network is back or somebody looks. */
function sleepUnlessWoken(ms: number, signal: AbortSignal): Promise<void> {
  const wakers: [EventTarget, string][] = [
    [window, "online"],
    [window, "pointerdown"],
    [document, "visibilitychange"],
    [signal, "abort"],
  ];
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      for (const [target, name] of wakers) target.removeEventListener(name, done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    for (const [target, name] of wakers) target.addEventListener(name, done);
  });
}
