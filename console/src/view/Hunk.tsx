import { useSignal } from "@preact/signals";
import type { DiffHunk } from "../api/types.ts";
import type { Comment } from "../model/comments.ts";
import { newId } from "../model/ids.ts";
import { changedWords, type Piece } from "../text/words.ts";
import { t } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import styles from "./Hunk.module.css";

type Line = DiffHunk["lines"][number] & { pieces?: Piece[] };
const SIGNS = { context: " ", add: "+", del: "−" };

interface Props {
  hunk: DiffHunk;
  path: string;
  isSplit: boolean;
  wraps: boolean;
  comments: readonly Comment[];
  onComment(comment: Comment): void;
}

/** The lines of one hunk, under each other or old beside new, with the words that differ marked. */
export function Hunk(props: Props) {
  const { hunk } = props;
  const commented = useSignal<number | null>(null);
  const lines = withWords(hunk.lines);
  const rows = props.isSplit ? sideBySide(lines) : lines.map((line) => [line]);
  return (
    <div class={styles["hunk"]} data-split={props.isSplit} data-wraps={props.wraps} tabIndex={0} role="group"
      aria-label={t("changes.hunk", { line: hunk.newStart })}>
      <div class={styles["place"]}>{`@@ −${hunk.oldStart},${hunk.oldLines} +${hunk.newStart},${hunk.newLines} @@`}</div>
      {rows.map((row) => <Row row={row} onPick={(line) => (commented.value = line)} path={props.path}
        drafts={props.comments.filter((one) => one.line === row.at(-1)?.newLine)}
        isPicked={commented.value !== null && commented.value === row.at(-1)?.newLine}
        onDone={(text) => {
          const line = row.at(-1);
          if (text !== "" && line) props.onComment({ id: newId(), path: props.path, line: line.newLine ?? 0, excerpt: line.content, text });
          commented.value = null;
        }} />)}
    </div>
  );
}

interface RowProps {
  row: (Line | null)[];
  path: string;
  drafts: readonly Comment[];
  isPicked: boolean;
  onPick(line: number): void;
  onDone(text: string): void;
}

function Row({ row, drafts, isPicked, onPick, onDone }: RowProps) {
  return (
    <>
      <div class={styles["row"]}>{row.map((line) => <Cell line={line} isAlone={row.length === 1} onPick={onPick} />)}</div>
      {drafts.map((draft) => (
        <p class={styles["draft"]}>
          {draft.text}{draft.excerpt !== row.at(-1)?.content && <em class="quiet"> {t("review.changed")}</em>}
        </p>
      ))}
      {isPicked && <CommentForm onDone={onDone} />}
    </>
  );
}

function Cell({ line, isAlone, onPick }: { line: Line | null; isAlone: boolean; onPick(line: number): void }) {
  if (line === null) return <div class={styles["line"]} data-type="none" />;
  const number = line.newLine;
  return (
    <div class={styles["line"]} data-type={line.type}>
      {isAlone && <span class={styles["number"]}>{line.oldLine ?? ""}</span>}
      {number === null ? <span class={styles["number"]}>{isAlone ? "" : (line.oldLine ?? "")}</span> : (
        <button type="button" class={styles["number"]} data-line title={t("review.comment")}
          aria-label={t("review.commentOn", { line: number })} onClick={() => onPick(number)}>{number}</button>
      )}
      <span class={styles["sign"]}>{SIGNS[line.type]}</span>
      <code>{line.pieces === undefined ? visible(line.content) : line.pieces.map((piece) =>
        piece.isChanged ? <mark>{visible(piece.text)}</mark> : visible(piece.text))}</code>
    </div>
  );
}

function CommentForm({ onDone }: { onDone(text: string): void }) {
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    onDone(String(new FormData(event.currentTarget as HTMLFormElement).get("comment")).trim());
  };
  return (
    <form class={styles["form"]} onSubmit={submit} onKeyDown={(event) => event.key === "Escape" && onDone("")}>
      <textarea name="comment" rows={2} aria-label={t("review.comment")} ref={(field) => field?.focus()} />
      <button type="submit" class="primary">{t("review.add")}</button>
      <button type="button" onClick={() => onDone("")}>{t("cancel")}</button>
    </form>
  );
}

/** A run of deleted lines and the run of added ones behind it, line by line against each other. */
function pairs(lines: readonly Line[]): [Line[], Line[], number][] {
  const found: [Line[], Line[], number][] = [];
  for (let index = 0; index < lines.length; ) {
    const start = index;
    while (lines[index]?.type === "del") index += 1;
    const middle = index;
    while (lines[index]?.type === "add") index += 1;
    if (index > start) found.push([lines.slice(start, middle), lines.slice(middle, index), start]);
    else index += 1;
  }
  return found;
}

function withWords(lines: readonly Line[]): Line[] {
  const marked = [...lines];
  for (const [gone, come, start] of pairs(lines)) {
    if (gone.length !== come.length) continue;
    gone.forEach((line, index) => {
      const [old, now] = changedWords(line.content, come[index]?.content ?? "");
      marked[start + index] = { ...line, pieces: old };
      marked[start + gone.length + index] = { ...(come[index] as Line), pieces: now };
    });
  }
  return marked;
}

function sideBySide(lines: readonly Line[]): (Line | null)[][] {
  const rows: (Line | null)[][] = [];
  let next = 0;
  for (const [gone, come, start] of pairs(lines)) {
    for (const line of lines.slice(next, start)) rows.push([line, line]);
    for (let index = 0; index < Math.max(gone.length, come.length); index += 1) rows.push([gone[index] ?? null, come[index] ?? null]);
    next = start + gone.length + come.length;
  }
  for (const line of lines.slice(next)) rows.push([line, line]);
  return rows;
}
