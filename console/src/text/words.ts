/** Which words of a line have changed. Pure. */

import { diffArrays } from "diff";

export interface Piece {
  text: string;
  isChanged: boolean;
}

/** Lines that differ in more are shown whole: all of them would be marked. */
const MAX_STEPS = 200;

/** Both lines in pieces. Lines with little in common are not marked, for the same reason. */
export function changedWords(before: string, after: string): [Piece[], Piece[]] {
  const found = diffArrays(words(before), words(after), { maxEditLength: MAX_STEPS }) ?? [];
  const parts = found.map(({ value, added, removed }) => ({ text: value.join(""), isChanged: added || removed, added, removed }));
  const shared = parts.filter((part) => !part.isChanged).reduce((sum, part) => sum + part.text.trim().length, 0);
  if (shared * 3 < Math.max(before.trim().length, after.trim().length)) return [whole(before), whole(after)];
  return [calm(parts.filter((part) => !part.added)), calm(parts.filter((part) => !part.removed))];
}

const whole = (text: string): Piece[] => [{ text, isChanged: false }];

function words(line: string): string[] {
  return line.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];
}

/** Words that changed beside each other are one mark, with the space between them. */
function calm(parts: readonly Piece[]): Piece[] {
  const found: Piece[] = [];
  parts.forEach(({ text, isChanged }, index) => {
    const last = found.at(-1);
    const isMarked = isChanged || (text.trim() === "" && last?.isChanged === true && parts[index + 1]?.isChanged === true);
    if (last?.isChanged === isMarked) last.text += text;
    else found.push({ text, isChanged: isMarked });
  });
  return found;
}
