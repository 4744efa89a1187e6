/** What turns have cost, added up. Pure. */

import type { Job } from "../api/types.ts";

export interface Sum {
  key: string;
  turns: number;
  ms: number;
  tokens: number;
  usd: number;
}

const MAX_ROWS = 30;

/** The newest days first; days are those of whoever looks. */
export function byDay(jobs: readonly Job[]): Sum[] {
  return sums(jobs, dayOf).sort((a, b) => b.key.localeCompare(a.key)).slice(0, MAX_ROWS);
}

/** The most expensive ones first. */
export function bySession(jobs: readonly Job[]): Sum[] {
  return sums(jobs, (job) => job.sessionId).sort((a, b) => b.usd - a.usd || b.tokens - a.tokens).slice(0, MAX_ROWS);
}

export function tokensOf(job: Job): number {
  const count = (name: string) => Number(job.usage?.[name] ?? job.usage?.[name.replace(/_(\w)/g, (_, c: string) => c.toUpperCase())] ?? 0) || 0;
  return count("input_tokens") + count("output_tokens");
}

export function timeOf(job: Job): number {
  return job.startedAt && job.finishedAt ? Date.parse(job.finishedAt) - Date.parse(job.startedAt) : 0;
}

function dayOf(job: Job): string {
  const at = new Date(job.createdAt);
  return [at.getFullYear(), at.getMonth() + 1, at.getDate()].map((part) => String(part).padStart(2, "0")).join("-");
}

function sums(jobs: readonly Job[], keyOf: (job: Job) => string): Sum[] {
  const found = new Map<string, Sum>();
  for (const job of jobs) {
    const key = keyOf(job);
    const sum = found.get(key) ?? { key, turns: 0, ms: 0, tokens: 0, usd: 0 };
    sum.turns += 1;
    sum.ms += timeOf(job);
    sum.tokens += tokensOf(job);
    sum.usd += job.costUsd ?? 0;
    found.set(key, sum);
  }
  return [...found.values()];
}
