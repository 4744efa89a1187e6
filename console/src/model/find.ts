/** Words in rows. Pure. */

import type { Row } from "./transcript.ts";

/** The rows that have the words, in any case; none for no words. */
export function matching(rows: readonly Row[], words: string): Row[] {
  const wanted = words.trim().toLowerCase();
  // What the end of a turn says again is not shown before it.
  const ends = new Set(rows.map((row) => row.kind === "done" && row.error));
  const isShown = (row: Row) => row.kind !== "error" || !ends.has(row.text);
  return wanted === "" ? [] : rows.filter((row) => isShown(row) && textOf(row).toLowerCase().includes(wanted));
}

function textOf(row: Row): string {
  switch (row.kind) {
    case "call":
      return [row.title, row.output, ...row.content.map((item) => (item.type === "text" ? item.text : ""))].join("\n");
    case "plan":
      return row.entries.map((entry) => entry.content).join("\n");
    case "question":
      return row.question.title;
    case "done":
      return row.error ?? "";
    default:
      return row.text;
  }
}
