/**
 * Few connections however many tabs: browsers have six to a server, and the next request of all tabs waits for ever.
 *
 * One tab of a browser follows what happens in all sessions and tells the others; each conversation that is looked at
 * needs one of a few places. Without Web Locks (http from another machine) every tab is on its own.
 */

const LEADER = "agentsrv-activity";
const CHANNEL = "agentsrv-activity";
const PLACES = 4;

type Told<T> = { hello: true } | { news: T };

/** Follow with `lead` in one tab at a time; `take` gets the news in all. `snapshot`: what who comes late is told. */
export class Shared<T> {
  constructor(
    private readonly lead: (tell: (news: T) => void, signal: AbortSignal) => Promise<void>,
    private readonly take: (news: T) => void,
    private readonly snapshot: () => T | null,
  ) {}

  async run(signal: AbortSignal): Promise<void> {
    if (!("locks" in navigator) || !("BroadcastChannel" in window)) return this.lead(this.take, signal);
    const channel = new BroadcastChannel(CHANNEL);
    let isLeader = false;
    channel.onmessage = ({ data }: MessageEvent<Told<T>>) => {
      if ("news" in data) return this.take(data.news);
      const now = isLeader ? this.snapshot() : null;
      if (now !== null) channel.postMessage({ news: now });
    };
    channel.postMessage({ hello: true });
    try {
      await navigator.locks.request(LEADER, { signal }, () => {
        isLeader = true;
        return this.lead((news) => {
          this.take(news);
          channel.postMessage({ news });
        }, signal);
      });
    } finally {
      channel.close();
    }
  }
}

/** Do something that holds a connection open, once one of the places is free. Raises when `signal` aborts before. */
export async function inPlace(signal: AbortSignal, work: () => Promise<void>): Promise<void> {
  if (!("locks" in navigator)) return work();
  for (let place = 0; place < PLACES; place += 1) {
    const isDone = await navigator.locks.request(`agentsrv-stream-${place}`, { ifAvailable: true }, async (lock) => {
      if (lock !== null) await work();
      return lock !== null;
    });
    if (isDone) return;
  }
  // All are taken: wait for the first.
  await navigator.locks.request("agentsrv-stream-0", { signal }, work);
}
