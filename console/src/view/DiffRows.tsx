import { useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { type Line, lineDiff } from "../text/lines.ts";
import { visible } from "../text/visible.ts";
import { plural } from "../i18n/index.ts";
import styles from "./DiffRows.module.css";

const SIGNS = { same: " ", old: "-", new: "+" };
/** So many lines from the beginning and from the end. */
const EDGE_LINES = 100;

interface Props {
  before: string;
  after: string;
  /** All of it, as for who is asked for leave; else of much the beginning and the end, until somebody wants all. */
  isWhole?: boolean;
}

/** What changes from one text to the other, a row a line. */
export function DiffRows({ before, after, isWhole = false }: Props) {
  const isAsked = useSignal(isWhole);
  const lines = useMemo(() => lineDiff(before, after), [before, after]);
  const left = lines.length - 2 * EDGE_LINES;
  if (isAsked.value || left <= 0) return <pre class={styles["diff"]} data-whole={isWhole} tabIndex={0}>{lines.map(row)}</pre>;
  return (
    <pre class={styles["diff"]} tabIndex={0}>
      {lines.slice(0, EDGE_LINES).map(row)}
      <button type="button" class={styles["more"]} onClick={() => (isAsked.value = true)}>{plural("chat.moreLines", left)}</button>
      {lines.slice(-EDGE_LINES).map(row)}
    </pre>
  );
}

function row(line: Line) {
  return <span class={styles["row"]} data-kind={line.kind}>{`${SIGNS[line.kind]} ${visible(line.text)}\n`}</span>;
}
