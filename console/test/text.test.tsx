import assert from "node:assert/strict";
import test from "node:test";
import { render } from "preact-render-to-string";
import { lineDiff } from "../src/text/lines.ts";
import { markdown, StreamedMarkdown } from "../src/text/markdown.tsx";
import { hasHidden, visible } from "../src/text/visible.ts";

const SOURCE = [
  "# Title", "", "Some *words* with `code` and a [link](https://example.com).", "", "- one", "- two", "  - inner", "",
  "```py", "x = '<b>'", "```", "", "| a | b |", "|---|---|", "| 1 | 2 |", "", "> quoted", "", "1. first", "2. second",
  "", "<script>alert(1)</script>", "", "[bad](javascript:alert(1)) ![pixel](https://elsewhere/x.png)", "", "The end.",
].join("\n");

const html = (nodes: unknown) => render(<div>{nodes as preact.ComponentChildren}</div>);

/** The same numbers in each run. */
function* numbers(seed: number): Generator<number> {
  for (let state = seed; ; ) yield (state = (state * 1103515245 + 12345) % 2147483648) / 2147483648;
}

test("markdown that came in pieces is the same as whole", () => {
  const random = numbers(7);
  for (let round = 0; round < 50; round += 1) {
    const streamed = new StreamedMarkdown();
    let last: unknown = null;
    for (let end = 0; end < SOURCE.length; ) {
      end = Math.min(SOURCE.length, end + 1 + Math.floor((random.next().value as number) * 40));
      last = streamed.render(SOURCE.slice(0, end));
    }
    assert.equal(html(last), html(markdown(SOURCE)));
  }
});

test("a task has one box, in a tight list and in a loose one", () => {
  for (const source of ["- [x] done\n- [ ] todo", "- [x] done\n\n- [ ] todo"])
    assert.equal(html(markdown(source)).replace(/<(?!input)[^>]*>/g, "").replace(/<input[^>]*>/g, "□"), "□done□todo");
});

test("nothing in a message runs or asks another host", () => {
  const shown = html(markdown(SOURCE));
  assert.ok(shown.includes("&lt;script>"));
  assert.ok(!/<(script|img)|javascript:alert\(1\)"/.test(shown));
  assert.match(shown, /<a href="https:\/\/elsewhere\/x.png"[^>]*>pixel<\/a>/);
});

test("what would hide is shown", () => {
  const spoofed = "rm -rf x #\u001b[2K\u001b[1Gls\u202e\u200b";
  assert.ok(hasHidden(spoofed));
  assert.equal(visible(spoofed), "rm -rf x #⟨U+001B⟩[2K⟨U+001B⟩[1Gls⟨U+202E⟩⟨U+200B⟩");
  assert.equal(visible("two\nlines\tand ümlaut 🙂"), "two\nlines\tand ümlaut 🙂");
});

test("a difference gives both texts back, for any texts", () => {
  const random = numbers(11);
  const text = () => Array.from({ length: Math.floor((random.next().value as number) * 12) },
    () => "abcd"[Math.floor((random.next().value as number) * 4)]).join("\n");
  for (let round = 0; round < 500; round += 1) {
    const [before, after] = [text(), text()];
    const lines = lineDiff(before, after);
    const side = (gone: "old" | "new") => lines.filter((line) => line.kind !== gone).map((line) => line.text).join("\n");
    assert.deepEqual([side("new"), side("old")], [before, after]);
  }
});

test("texts that differ in too much are one after the other", () => {
  const text = (word: string) => Array.from({ length: 2000 }, (_, index) => `${word} ${index}`).join("\n");
  const kinds = lineDiff(text("a"), text("b")).map((line) => line.kind);
  assert.deepEqual([kinds.indexOf("new"), kinds.lastIndexOf("old")], [2000, 1999]);
});
