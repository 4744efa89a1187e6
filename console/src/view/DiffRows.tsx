import { lineDiff } from "../text/lines.ts";
import { visible } from "../text/visible.ts";
import styles from "./DiffRows.module.css";

const SIGNS = { same: " ", old: "-", new: "+" };

/** What changes from one text to the other, a row a line. */
export function DiffRows({ before, after }: { before: string; after: string }) {
  return (
    <pre class={styles["diff"]} tabIndex={0}>
      {lineDiff(before, after).map((line) => (
        <span class={styles["row"]} data-kind={line.kind}>{`${SIGNS[line.kind]} ${visible(line.text)}\n`}</span>
      ))}
    </pre>
  );
}
