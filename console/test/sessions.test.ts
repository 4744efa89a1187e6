import assert from "node:assert/strict";
import test from "node:test";
import { dayOf } from "../src/i18n/index.ts";
import { groups } from "../src/model/sessions.ts";
import type { Session } from "../src/api/types.ts";

const NOW = new Date(2026, 10, 29, 12);
const session = (id: string, fields: Partial<Session> = {}): Session => ({
  id, name: null, agent: "codex", cwd: "/w", model: null, updatedAt: NOW.toISOString(), isStreaming: false,
  activeTaskId: null, worktree: null, ...fields,
});

test("who needs somebody comes first, then who works, then by day", () => {
  const on = (day: number) => ({ updatedAt: new Date(2026, 10, day, 9).toISOString() });
  const all = [
    session("old", on(20)), session("before", on(28)), session("done", on(29)), session("works", { isStreaming: true }), session("asks"),
  ];
  const found = groups(all, new Set(["asks"]), "");
  assert.deepEqual(found.map((group) => group.sessions.map((one) => one.id)), [["asks"], ["works"], ["done"], ["before"], ["old"]]);
  const days = found.flatMap((group) => (group.day === undefined ? [] : [dayOf(group.day, NOW.getTime())]));
  assert.deepEqual(days, ["Today", "Yesterday", "Fri, Nov 20"]);
});

test("a filter's words may stand anywhere", () => {
  const found = groups([session("a", { name: "Tidy the parser" }), session("b")], new Set(), "PARSER tidy");
  assert.deepEqual(found.map((group) => group.sessions.map((one) => one.id)), [["a"]]);
});
