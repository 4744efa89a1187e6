/** Which words of a line have changed. Pure. */

export interface Piece {
  text: string;
  isChanged: boolean;
}

/** Longer lines are shown whole. */
const MAX_CHARS = 500;

/** Both lines in pieces. Lines with little in common are not marked: all of them would be. */
export function changedWords(before: string, after: string): [Piece[], Piece[]] {
  if (before.length > MAX_CHARS || after.length > MAX_CHARS) return [whole(before), whole(after)];
  const old = words(before);
  const now = words(after);
  const kept = common(old, now);
  const shared = [...kept.keys()].reduce((sum, index) => sum + (old[index]?.trim().length ?? 0), 0);
  if (shared * 3 < Math.max(before.trim().length, after.trim().length)) return [whole(before), whole(after)];
  return [pieces(old, new Set(kept.keys())), pieces(now, new Set(kept.values()))];
}

const whole = (text: string): Piece[] => [{ text, isChanged: false }];

function words(line: string): string[] {
  return line.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];
}

function pieces(parts: string[], kept: ReadonlySet<number>): Piece[] {
  const found: Piece[] = [];
  parts.forEach((text, index) => {
    const last = found.at(-1);
    const isChanged = !kept.has(index);
    if (last?.isChanged === isChanged) last.text += text;
    else found.push({ text, isChanged });
  });
  return found;
}

/** The longest common run of words: where each of the old ones is among the new. */
function common(old: string[], now: string[]): Map<number, number> {
  const lengths = Array.from({ length: old.length + 1 }, () => new Uint16Array(now.length + 1));
  const at = (i: number, j: number) => lengths[i]?.[j] ?? 0;
  for (let i = old.length - 1; i >= 0; i -= 1)
    for (let j = now.length - 1; j >= 0; j -= 1)
      (lengths[i] as Uint16Array)[j] = old[i] === now[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
  const kept = new Map<number, number>();
  for (let i = 0, j = 0; i < old.length && j < now.length; ) {
    if (old[i] === now[j]) kept.set(i++, j++);
    else if (at(i + 1, j) >= at(i, j + 1)) i += 1;
    else j += 1;
  }
  return kept;
}
