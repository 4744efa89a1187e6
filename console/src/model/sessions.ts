/** The list of sessions in the order in which people need it. Pure. */

import type { Session } from "../api/types.ts";

export type Status = "idle" | "queued" | "running" | "waiting" | "failed";

/** Of a day: when that began, here. */
export type Group = { sessions: Session[] } & ({ key: "needsYou" | "running"; day?: never } | { key: string; day: number });

export function statusOf(session: Session, waiting: ReadonlySet<string>): Status {
  if (waiting.has(session.id)) return "waiting";
  return session.status ?? (session.isStreaming ? "running" : "idle");
}

/** Who needs somebody first, then who works, then by day; within a group the newest first. Empty groups are left out. */
export function groups(sessions: readonly Session[], waiting: ReadonlySet<string>, filter: string): Group[] {
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  const found = new Map<string, Group>();
  for (const key of ["needsYou", "running"] as const) found.set(key, { key, sessions: [] });
  for (const session of [...sessions].sort((a, b) => b.updatedAt.localeCompare(a.updatedAt))) {
    if (!fits(session, words)) continue;
    const group = groupOf(session, waiting);
    if (!found.has(group.key)) found.set(group.key, group);
    found.get(group.key)?.sessions.push(session);
  }
  return [...found.values()].filter((group) => group.sessions.length > 0);
}

/** The empty group that a session belongs to. */
function groupOf(session: Session, waiting: ReadonlySet<string>): Group {
  const status = statusOf(session, waiting);
  if (status === "waiting") return { key: "needsYou", sessions: [] };
  if (status === "running" || status === "queued") return { key: "running", sessions: [] };
  const day = new Date(session.updatedAt).setHours(0, 0, 0, 0);
  return { key: String(day), day, sessions: [] };
}

function fits(session: Session, words: string[]): boolean {
  const text = [session.id, session.name, session.preview, session.cwd, session.agent].join(" ").toLowerCase();
  return words.every((word) => text.includes(word));
}

/** The last name of its directory, by which people know it. */
export function placeOf({ cwd }: Session): string {
  return cwd.split("/").findLast(Boolean) ?? cwd;
}
