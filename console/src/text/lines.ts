/** Which lines of a text were taken away and which came. Pure. */

import { diffArrays } from "diff";

export interface Line {
  kind: "same" | "old" | "new";
  text: string;
}

/** Beyond so many differences the texts are simply shown one after the other. */
const MAX_STEPS = 1000;

export function lineDiff(before: string, after: string): Line[] {
  const [old, now] = [split(before), split(after)];
  const found = diffArrays(old, now, { maxEditLength: MAX_STEPS });
  if (found === undefined) return [...lines("old", old), ...lines("new", now)];
  return found.flatMap(({ value, added, removed }) => lines(added ? "new" : removed ? "old" : "same", value));
}

function split(text: string): string[] {
  if (text === "") return [];
  return text.replace(/\n$/, "").split("\n");
}

const lines = (kind: Line["kind"], texts: readonly string[]): Line[] => texts.map((text) => ({ kind, text }));
