/** Which lines of a text were taken away and which came, in the fewest steps (Myers' greedy algorithm). Pure. */

export interface Line {
  kind: "same" | "old" | "new";
  text: string;
}

/** Beyond so many differences the texts are simply shown one after the other. */
const MAX_STEPS = 1000;

export function lineDiff(before: string, after: string): Line[] {
  const old = split(before);
  const now = split(after);
  let start = 0;
  while (start < old.length && start < now.length && old[start] === now[start]) start += 1;
  let end = 0;
  while (end < old.length - start && end < now.length - start && old.at(-1 - end) === now.at(-1 - end)) end += 1;
  const middle = changes(old.slice(start, old.length - end), now.slice(start, now.length - end));
  return [...same(old.slice(0, start)), ...middle, ...same(old.slice(old.length - end))];
}

function split(text: string): string[] {
  if (text === "") return [];
  return text.replace(/\n$/, "").split("\n");
}

const same = (lines: string[]): Line[] => lines.map((text) => ({ kind: "same", text }));

function changes(old: string[], now: string[]): Line[] {
  const trail = search(old, now);
  if (trail === null) return [...marked("old", old), ...marked("new", now)];
  const found: Line[] = [];
  let x = old.length;
  let y = now.length;
  for (let step = trail.length - 1; step >= 0; step -= 1) {
    const reach = trail[step] as Map<number, number>;
    const k = x - y;
    const isDown = k === -step || (k !== step && at(reach, k - 1) < at(reach, k + 1));
    const fromK = isDown ? k + 1 : k - 1;
    const fromX = step === 0 ? 0 : at(reach, fromK);
    const fromY = step === 0 ? 0 : fromX - fromK;
    while (x > fromX && y > fromY) found.push({ kind: "same", text: old[(x -= 1)] as string }), (y -= 1);
    if (step === 0) break;
    if (isDown) found.push({ kind: "new", text: now[(y -= 1)] as string });
    else found.push({ kind: "old", text: old[(x -= 1)] as string });
  }
  return found.reverse();
}

const marked = (kind: "old" | "new", lines: string[]): Line[] => lines.map((text) => ({ kind, text }));

const at = (reach: Map<number, number>, k: number) => reach.get(k) ?? -1;

/** How far each diagonal was reached before each step; null when it takes too many. */
function search(old: string[], now: string[]): Map<number, number>[] | null {
  const trail: Map<number, number>[] = [];
  const reach = new Map<number, number>([[1, 0]]);
  for (let step = 0; step <= Math.min(old.length + now.length, MAX_STEPS); step += 1) {
    trail.push(new Map(reach));
    for (let k = -step; k <= step; k += 2) {
      let x = k === -step || (k !== step && at(reach, k - 1) < at(reach, k + 1)) ? at(reach, k + 1) : at(reach, k - 1) + 1;
      while (x < old.length && x - k < now.length && old[x] === now[x - k]) x += 1;
      reach.set(k, x);
      if (x >= old.length && x - k >= now.length) return trail;
    }
  }
  return null;
}
