/** What a page of history says, as the events that a stream would have had. Pure. */

import type { Batch } from "../api/frames.ts";
import type { Job, MessagePage } from "../api/types.ts";

const ENDED = new Set(["completed", "failed", "cancelled", "interrupted"]);

/**
 * The messages of a page, each at its event, and where turns ended in it. `before`: the page reaches up to that event;
 * Infinity for the newest one.
 */
export function asBatches(page: MessagePage, jobs: readonly Job[], before: number): Batch[] {
  const batches = new Map<number, string[]>();
  const add = (id: number, data: string) => batches.set(id, [...(batches.get(id) ?? []), data]);
  page.messages.forEach((message, index) => add(page.eventIds[index] ?? page.lastEventId, JSON.stringify(message)));
  for (const job of jobs)
    if (ENDED.has(job.status) && job.lastEventId > 0 && job.lastEventId >= page.firstEventId && job.lastEventId < before)
      add(job.lastEventId, end(job));
  return [...batches].sort(([a], [b]) => a - b).map(([id, data]) => ({ id, data }));
}

function end(job: Job): string {
  return JSON.stringify({ done: true, taskId: job.taskId, status: job.status, error: job.error });
}
