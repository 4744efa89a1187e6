import assert from "node:assert/strict";
import test from "node:test";
import { render } from "preact-render-to-string";
import { asPrompt } from "../src/model/comments.ts";
import { absolute, placeOf } from "../src/model/files.ts";
import { fileHash, route, sessionHash } from "../src/model/route.ts";
import { byDay, bySession } from "../src/model/usage.ts";
import { ansi } from "../src/text/ansi.tsx";
import { changedWords } from "../src/text/words.ts";
import { ApiError } from "../src/api/http.ts";
import type { Job } from "../src/api/types.ts";
import { explain } from "../src/view/Problem.tsx";

const html = (nodes: unknown) => render(<div>{nodes as preact.ComponentChildren}</div>);
const plain = (nodes: unknown) => html(nodes).replace(/<[^>]*>/g, "");

test("an address leads back to what it was made from, whatever the names are", () => {
  for (const path of ["a.py", "dir/ü ß.txt", "/abs/a:b.py", "file:///home/caf%E9", "100%", "#/x?y=z"]) {
    const found = route(fileHash("id.with-dots", path, 12));
    assert.deepEqual(found, { view: "session", id: "id.with-dots", tab: "files", path, line: 12 });
  }
  assert.deepEqual(route(sessionHash("s", "changes")), { view: "session", id: "s", tab: "changes", path: "", line: 0 });
  assert.deepEqual(route("#/s/%E0%A4%A"), { view: "session", id: "%E0%A4%A", tab: "chat", path: "", line: 0 });
  assert.deepEqual([route("#/nowhere"), route("")], [{ view: "sessions" }, { view: "sessions" }]);
});

test("colours of a terminal become elements, everything else that it was told is left out", () => {
  assert.equal(plain(ansi("\u001b[31mred\u001b[0m \u001b[1;38;5;200mbold\u001b[m\u001b[2K\u001b]0;title\u0007 end")), "red bold end");
  assert.match(html(ansi("\u001b[32mgood\u001b[39m.")), /<span class="[^"]*green[^"]*">good<\/span>\./);
  assert.equal(plain(ansi("10%\r50%\r100%\nnext\r\nlast")), "100%\nnext\nlast");
  assert.equal(plain(ansi("a\u202eb\u0000")), "a⟨U+202E⟩b⟨U+0000⟩");
});

test("a megabyte in one line takes a moment, whatever is in it", () => {
  for (const part of ["x", "\r", "\r\rx", "\u001b]", "\u001b[", "\u001b[1;", "a/", "a."]) {
    const started = performance.now();
    ansi(part.repeat(1_000_000 / part.length));
    assert.ok(performance.now() - started < 20_000, JSON.stringify(part));
  }
});

test("any bytes of a terminal give text without control characters", () => {
  let state = 5;
  const next = () => (state = (state * 1103515245 + 12345) % 2147483648) / 2147483648;
  const letters = "\u001b[];:?m0123AB\r\n\u0007\\ x";
  for (let round = 0; round < 500; round += 1) {
    const text = Array.from({ length: 40 }, () => letters[Math.floor(next() * letters.length)]).join("");
    assert.doesNotMatch(plain(ansi(text)), /[\u0000-\u0008\u000b-\u001f]/);
  }
});

test("what is refused for where it comes from names the setting that lets it in", () => {
  assert.match(explain(new ApiError(403, "host_not_allowed", "evil.example")), /ALLOWED_HOSTS\. evil\.example$/);
  assert.match(explain(new ApiError(403, "origin_not_allowed", "http://a")), /PUBLIC_URL, .*ALLOWED_ORIGINS\. http:\/\/a$/);
});

test("the words that changed are marked, and the line is whole", () => {
  const [old, now] = changedWords("return rows(session, after)", "return await rows(session, after)");
  assert.deepEqual(old.filter((piece) => piece.isChanged), []);
  assert.deepEqual(now.filter((piece) => piece.isChanged).map((piece) => piece.text.trim()), ["await"]);
  assert.equal(now.map((piece) => piece.text).join(""), "return await rows(session, after)");
});

test("words that changed beside each other are one mark, and a long line has its marks too", () => {
  const long = "same ".repeat(400);
  const [, now] = changedWords(`${long}one two three end`, `${long}four five six end`);
  assert.deepEqual(now.filter((piece) => piece.isChanged).map((piece) => piece.text), ["four five six"]);
});

test("lines that have little in common are not marked at all", () => {
  const [old, now] = changedWords("alpha beta gamma", "one two three four");
  assert.deepEqual([old.length, now.length], [1, 1]);
});

test("a file is named from the workspace on, wherever the listing began", () => {
  const place = placeOf({ path: "app/src", fullPath: "/home/ada/app/src" });
  assert.equal(place.of({ path: "app/src/a.py" }), "/home/ada/app/src/a.py");
  assert.equal(place.below("app/src/lib/a.py"), "lib/a.py");
  assert.equal(placeOf({ path: "/", fullPath: "/home/ada" }).of({ path: "a.py" }), "/home/ada/a.py");
  assert.equal(place.of({ path: "caf", uri: "file:///home/caf%E9" }), "file:///home/caf%E9");
  assert.deepEqual([absolute("a.py", "/w"), absolute("/x/a.py", "/w")], ["/w/a.py", "/x/a.py"]);
});

test("comments are one prompt, each with its place", () => {
  const comment = { id: "1", path: "a.py", line: 4, excerpt: "x = 1", text: "Why 1?" };
  assert.match(asPrompt([comment, { ...comment, line: 9 }]), /a\.py:4\n> x = 1\nWhy 1\?\n\na\.py:9/);
});

test("costs are added up by day and by session", () => {
  const job = (sessionId: string, fields: Partial<Job>): Job => ({
    taskId: "", sessionId, status: "completed", createdAt: new Date(2026, 1, 3).toISOString(), firstEventId: 1, lastEventId: 2, ...fields,
  });
  const jobs = [job("a", { costUsd: 0.5, usage: { input_tokens: 2, output_tokens: 3 } }), job("b", { costUsd: 1 }), job("a", {})];
  assert.deepEqual(bySession(jobs).map((sum) => [sum.key, sum.turns, sum.tokens, sum.usd]), [["b", 1, 0, 1], ["a", 2, 5, 0.5]]);
  assert.deepEqual(byDay(jobs).map((sum) => [sum.key, sum.turns, sum.usd]), [["2026-02-03", 3, 1.5]]);
});
