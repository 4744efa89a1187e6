import assert from "node:assert/strict";
import test from "node:test";
import { groups } from "../src/model/sessions.ts";
import type { Session } from "../src/api/types.ts";

const NOW = new Date(2026, 10, 29, 12);
const session = (id: string, fields: Partial<Session> = {}): Session => ({
  id, name: null, agent: "codex", cwd: "/w", model: null, updatedAt: NOW.toISOString(), isStreaming: false,
  activeTaskId: null, worktree: null, ...fields,
});

test("who needs somebody comes first, then who works, then by day", () => {
  const old = new Date(2026, 10, 20).toISOString();
  const all = [session("old", { updatedAt: old }), session("done"), session("works", { isStreaming: true }), session("asks")];
  const found = groups(all, new Set(["asks"]), "", NOW);
  assert.deepEqual(found.map((group) => group.sessions.map((one) => one.id)), [["asks"], ["works"], ["done"], ["old"]]);
});

test("a filter's words may stand anywhere", () => {
  const found = groups([session("a", { name: "Tidy the parser" }), session("b")], new Set(), "PARSER tidy", NOW);
  assert.deepEqual(found.map((group) => group.sessions.map((one) => one.id)), [["a"]]);
});
