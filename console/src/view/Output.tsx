import { useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { ansi } from "../text/ansi.tsx";
import { plural } from "../i18n/index.ts";
import styles from "./RowView.module.css";

/** So many lines from the beginning and from the end. */
const EDGE_LINES = 100;

/** What a program wrote. Of much, its beginning and its end, until somebody asks for all. */
export function Output({ text }: { text: string }) {
  const isWhole = useSignal(false);
  const lines = useMemo(() => text.split("\n"), [text]);
  const left = lines.length - 2 * EDGE_LINES;
  if (isWhole.value || left <= 0) return <pre class={styles["output"]} tabIndex={0}>{ansi(text)}</pre>;
  return (
    <pre class={styles["output"]} tabIndex={0}>
      {ansi(`${lines.slice(0, EDGE_LINES).join("\n")}\n`)}
      <button type="button" class={styles["more"]} onClick={() => (isWhole.value = true)}>{plural("chat.moreLines", left)}</button>
      {ansi(`\n${lines.slice(-EDGE_LINES).join("\n")}`)}
    </pre>
  );
}
