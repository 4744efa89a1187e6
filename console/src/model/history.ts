/** What a page of history says, as the events that a stream would have had. Pure. */

import type { Batch } from "../api/frames.ts";
import type { Job, MessagePage } from "../api/types.ts";

const ENDED = new Set(["completed", "failed", "cancelled", "interrupted"]);

/** Whether `jobs`, which were asked for together with the page, tell of all ends of turns that its messages surround. */
export function areAll(jobs: readonly Job[], page: MessagePage): boolean {
  return jobs.every((job) => ENDED.has(job.status)) && page.lastEventId <= Math.max(0, ...jobs.map((job) => job.lastEventId));
}

/** The messages of a page, each at its event, and where turns ended in it. What ended behind it comes with what follows. */
export function asBatches(page: MessagePage, jobs: readonly Job[]): Batch[] {
  const batches = new Map<number, string[]>();
  const add = (id: number, data: string) => batches.set(id, [...(batches.get(id) ?? []), data]);
  page.messages.forEach((message, index) => add(page.eventIds[index] ?? page.lastEventId, JSON.stringify(message)));
  for (const job of jobs)
    if (ENDED.has(job.status) && job.lastEventId > 0 && job.lastEventId >= page.firstEventId && job.lastEventId <= page.upToEventId)
      add(job.lastEventId, end(job));
  return [...batches].sort(([a], [b]) => a - b).map(([id, data]) => ({ id, data }));
}

function end(job: Job): string {
  return JSON.stringify({ done: true, taskId: job.taskId, status: job.status, error: job.error });
}
