/**
 * The rows of a conversation as they are shown: what a turn has done on its way, in one line once it is over. Pure.
 *
 * A turn that runs is shown whole. Of one that has ended: the prompt, a line for its steps, the answer, its end.
 */

import type { CallRow, DoneRow, Row } from "./transcript.ts";

/** The steps of a turn that has ended. */
export interface StepsRow {
  kind: "steps";
  key: string;
  version: number;
  seq: number;
  steps: number;
  failed: number;
  /** The job of their turn, which knows how long they have taken. */
  taskId: string;
  isOpen: boolean;
}
export type Shown = Row | StepsRow;

/** Fewer steps stand for themselves. */
const FEW = 2;

export function shown(rows: readonly Row[], unfolded: ReadonlySet<string>): Shown[] {
  const found: Shown[] = [];
  let start = 0;
  rows.forEach((row, index) => {
    if (row.kind !== "done") return;
    // What ended it stands in its last line.
    const turn = rows.slice(start, index).filter((one) => one.kind !== "error" || one.text !== row.error);
    found.push(...folded(turn, row, unfolded), row);
    start = index + 1;
  });
  found.push(...rows.slice(start));
  return found;
}

function folded(turn: readonly Row[], end: DoneRow, unfolded: ReadonlySet<string>): Shown[] {
  const answer = turn.findLastIndex((row) => row.kind === "text");
  const isStep = (row: Row, index: number) => index !== answer && row.kind !== "user" && row.kind !== "error" && row.kind !== "gap";
  const steps = turn.filter(isStep);
  if (steps.length < FEW) return [...turn];
  const key = `steps ${end.key}`;
  const isOpen = unfolded.has(key);
  const failed = steps.filter((row) => row.kind === "call" && row.status === "failed").length;
  const line: StepsRow = {
    kind: "steps", key, seq: steps[0]?.seq ?? 0, version: isOpen ? 1 : 0, steps: steps.length, failed, taskId: end.taskId, isOpen,
  };
  const first = turn.findIndex(isStep);
  const before = turn.slice(0, first);
  const behind = turn.slice(first);
  return [...before, line, ...(isOpen ? behind : behind.filter((row, index) => !isStep(row, index + first)))];
}

/** The call that runs now, if one does. */
export function runningCall(rows: readonly Row[]): CallRow | undefined {
  const last = rows.findLast((row) => row.kind === "call" || row.kind === "done");
  return last?.kind === "call" && last.status === "in_progress" ? last : undefined;
}
