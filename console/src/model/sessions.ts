/** The list of sessions in the order in which people need it. Pure. */

import type { Session } from "../api/types.ts";

export type Status = "idle" | "queued" | "running" | "waiting" | "failed";

export interface Group {
  title: "sessions.needsYou" | "sessions.running" | "sessions.today" | "sessions.earlier";
  sessions: Session[];
}

export function statusOf(session: Session, waiting: ReadonlySet<string>): Status {
  if (waiting.has(session.id)) return "waiting";
  return session.status ?? (session.isStreaming ? "running" : "idle");
}

/** Who needs somebody first, then who works, then by day; within a group the newest first. Empty groups are left out. */
export function groups(
  sessions: readonly Session[],
  waiting: ReadonlySet<string>,
  filter: string,
  now = new Date(),
): Group[] {
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  const today = new Date(now.getFullYear(), now.getMonth(), now.getDate()).getTime();
  const found: Record<Group["title"], Session[]> = {
    "sessions.needsYou": [],
    "sessions.running": [],
    "sessions.today": [],
    "sessions.earlier": [],
  };
  for (const session of [...sessions].sort((a, b) => b.updatedAt.localeCompare(a.updatedAt)))
    if (fits(session, words)) found[titleOf(session, waiting, today)].push(session);
  return Object.entries(found)
    .filter(([, members]) => members.length > 0)
    .map(([title, members]) => ({ title: title as Group["title"], sessions: members }));
}

function titleOf(session: Session, waiting: ReadonlySet<string>, today: number): Group["title"] {
  const status = statusOf(session, waiting);
  if (status === "waiting") return "sessions.needsYou";
  if (status === "running" || status === "queued") return "sessions.running";
  return Date.parse(session.updatedAt) >= today ? "sessions.today" : "sessions.earlier";
}

function fits(session: Session, words: string[]): boolean {
  const text = [session.id, session.name, session.preview, session.cwd, session.agent].join(" ").toLowerCase();
  return words.every((word) => text.includes(word));
}
