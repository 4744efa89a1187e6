import { useSignal } from "@preact/signals";
import { Component } from "preact";
import type { Job } from "../api/types.ts";
import type { Console } from "../model/console.ts";
import type { Conversation } from "../model/conversation.ts";
import type { CallContent, CallRow, DoneRow, PlanRow, Row, TextRow, UserRow } from "../model/transcript.ts";
import type { Shown, StepsRow } from "../model/turns.ts";
import { timeOf, tokensOf } from "../model/usage.ts";
import { StreamedMarkdown } from "../text/markdown.tsx";
import { visible } from "../text/visible.ts";
import { type Key } from "../i18n/en.ts";
import { clock, dollars, duration, plural, t, tokens } from "../i18n/index.ts";
import { Copy } from "./Copy.tsx";
import { DiffRows } from "./DiffRows.tsx";
import { Icon } from "./Icon.tsx";
import { Output } from "./Output.tsx";
import { PathLinks } from "./PathLink.tsx";
import { QuestionCard } from "./QuestionCard.tsx";
import styles from "./RowView.module.css";

interface Props {
  row: Shown;
  /** Rows change in place: this says that one has. */
  version: number;
  page: Console;
  conversation: Conversation;
}

export class RowView extends Component<Props> {
  private readonly markdown = new StreamedMarkdown();

  override shouldComponentUpdate(next: Props): boolean {
    return next.row !== this.props.row || next.version !== this.props.version;
  }

  override render({ row, page, conversation }: Props) {
    switch (row.kind) {
      case "user":
        return <UserView row={row} />;
      case "text":
        return <TextView row={row} nodes={this.markdown.render(row.text)} />;
      case "thought":
        return <ThoughtView row={row} />;
      case "call":
        return <CallView row={row} page={page} conversation={conversation} />;
      case "plan":
        return <PlanView row={row} />;
      case "question":
        return <AskedView row={row} page={page} />;
      case "steps":
        return <StepsView row={row} conversation={conversation} />;
      case "done":
        return <DoneView row={row} conversation={conversation} />;
      case "gap":
        return <p class="notice">{t("chat.gap")}</p>;
      case "error":
        // The end of the turn says it again, and where it stands.
        return <p class="error">{visible(row.text)}</p>;
      case "notice":
        return <p class="quiet">{visible(row.text)}</p>;
      case "raw":
        return <pre class={styles["output"]} tabIndex={0}>{visible(row.text)}</pre>;
    }
  }
}

const STATUSES = ["completed", "failed", "cancelled", "interrupted"] as const;

export function statusWord(status: string): string {
  const known = STATUSES.find((one) => one === status);
  return known === undefined ? status : t(`status.${known}`);
}

function UserView({ row }: { row: UserRow }) {
  return (
    <div class={styles["user"]}>
      <p>{row.text}</p>
      {row.images.filter(Boolean).map((url) => <img src={url} alt="" loading="lazy" />)}
      <Copy text={row.text} class={styles["copy"]} />
    </div>
  );
}

function TextView({ row, nodes }: { row: TextRow; nodes: preact.ComponentChildren[] }) {
  return (
    <div class={styles["text"]}>
      {nodes}
      {!row.isOpen && <Copy text={row.text} class={styles["copy"]} />}
    </div>
  );
}

function ThoughtView({ row }: { row: TextRow }) {
  return (
    <details class={styles["step"]}>
      <summary><Icon name="think" /><span class={styles["title"]}>{t("chat.thought")}</span><Chevron /></summary>
      <p class={styles["thought"]}>{visible(row.text)}</p>
    </details>
  );
}

/** A question keeps waiting here for as long as the server says so, whatever this page has missed. */
function AskedView({ row, page }: { row: Extract<Row, { kind: "question" }>; page: Console }) {
  const waiting = page.questions.value.find((one) => one.requestId === row.question.requestId && one.taskId === row.question.taskId);
  return (
    <QuestionCard api={page.api} asked={row.question} answer={row.answer}
      since={waiting?.createdAt ?? null} expires={waiting?.expiresAt ?? null} />
  );
}

function StepsView({ row, conversation }: { row: StepsRow; conversation: Conversation }) {
  const job = conversation.jobs.value.get(row.taskId);
  const took = job === undefined ? 0 : timeOf(job);
  return (
    <button type="button" class={styles["steps"]} aria-expanded={row.isOpen}
      onClick={() => conversation.unfold(row.key, !row.isOpen)}>
      <Chevron />
      <span>{plural("chat.steps", row.steps)}</span>
      {row.failed > 0 && <span class={styles["bad"]}>{plural("chat.failed", row.failed)}</span>}
      {took > 0 && <span>{duration(took)}</span>}
    </button>
  );
}

/** How a turn has ended: its time, its tokens, its cost, as far as they are known. */
function DoneView({ row, conversation }: { row: DoneRow; conversation: Conversation }) {
  const job = conversation.jobs.value.get(row.taskId);
  const facts = [statusWord(row.status), ...(job === undefined ? [] : factsOf(job))];
  return (
    <div class={styles["done"]} data-status={row.status}>
      <p>{facts.join(" · ")}</p>
      {row.error && <p class={styles["why"]}>{visible(row.error)}</p>}
    </div>
  );
}

function factsOf(job: Job): string[] {
  const [took, used] = [timeOf(job), tokensOf(job)];
  return [
    job.finishedAt ? clock(job.finishedAt) : "",
    took > 0 ? duration(took) : "",
    used > 0 ? t("chat.tokens", { count: tokens(used) }) : "",
    job.costUsd ? dollars(job.costUsd) : "",
  ].filter(Boolean);
}

function CallView({ row, page, conversation }: { row: CallRow; page: Console; conversation: Conversation }) {
  const chosen = useSignal<boolean | null>(null);
  // Failures are open, and what is being written; anything else when somebody looks.
  const isWorth = row.status === "failed" || (row.status === "in_progress" && (row.output !== "" || row.children.length > 0));
  const isOpen = chosen.value ?? isWorth;
  const diffs = row.content.filter((item) => item.type === "diff");
  return (
    <div class={styles["step"]} data-status={row.status} data-open={isOpen}>
      <div class={styles["head"]}>
        <Icon name={row.tool} />
        <code class={styles["title"]}>
          {row.tool === "execute" ? visible(row.title) : <PathLinks text={row.title || row.tool} />}
        </code>
        {row.tool === "execute" && <Copy text={row.title} class={styles["copy"]} />}
        <span class={styles["state"]}>{callState(row)}</span>
        <button type="button" class={`icon-button ${styles["toggle"]}`} aria-expanded={isOpen} aria-label={t("chat.details")}
          onClick={() => (chosen.value = !isOpen)}><Chevron /></button>
      </div>
      {isOpen && <CallDetails row={row} page={page} conversation={conversation} />}
      {diffs.map((item) => (
        <>
          {!row.title.includes(item.path) && <p class={styles["path"]}><PathLinks text={item.path} /></p>}
          <DiffRows before={item.old} after={item.new} />
        </>
      ))}
    </div>
  );
}

function CallDetails({ row, page, conversation }: { row: CallRow; page: Console; conversation: Conversation }) {
  const others = row.content.filter((item) => item.type !== "diff");
  const hasOutput = others.length > 0 || row.output !== "" || row.children.length > 0;
  return (
    <>
      {!hasOutput && row.input !== undefined && <Output text={JSON.stringify(row.input, null, 2) ?? ""} />}
      {row.output !== "" && others.length === 0 && <Output text={row.output} />}
      {others.map((item) => <ContentView item={item} />)}
      {row.children.length > 0 && <Nested rows={row.children} page={page} conversation={conversation} />}
    </>
  );
}

const MAX_NESTED = 50;

/** What a subagent did, inside the call that it was made for. */
function Nested({ rows, page, conversation }: { rows: Row[]; page: Console; conversation: Conversation }) {
  return (
    <div class={styles["nested"]}>
      {rows.length > MAX_NESTED && <p class="quiet">{plural("chat.earlierSteps", rows.length - MAX_NESTED)}</p>}
      {rows.slice(-MAX_NESTED).map((row) => (
        <RowView key={row.key} row={row} version={row.version} page={page} conversation={conversation} />
      ))}
    </div>
  );
}

function callState(row: CallRow): string {
  if (row.exitCode !== null && row.exitCode !== 0) return t("chat.exit", { code: row.exitCode });
  return row.progress || (row.status === "completed" ? "" : t(`chat.call.${row.status}` as Key));
}

function ContentView({ item }: { item: CallContent }) {
  switch (item.type) {
    case "diff":
      return null;
    case "image":
      return item.url === "" ? null : <img src={item.url} alt="" loading="lazy" />;
    case "text":
      return <Output text={item.text} />;
  }
}

/** Of a long plan what is done now is shown, a little before it and what comes next. */
const MAX_PLAN = 30;
const PLAN_BEFORE = 5;

function PlanView({ row }: { row: PlanRow }) {
  const done = row.entries.filter((entry) => entry.status === "completed").length;
  const current = row.entries.findIndex((entry) => entry.status !== "completed");
  const from = Math.max(0, Math.min(current - PLAN_BEFORE, row.entries.length - MAX_PLAN));
  const shown = row.entries.slice(from, from + MAX_PLAN);
  return (
    <details class={styles["step"]} open={done < row.entries.length}>
      <summary>
        <Icon name="list" />
        <span class={styles["title"]}>{t("chat.plan", { done, all: row.entries.length })}</span>
        <Chevron />
      </summary>
      <ul class={styles["plan"]}>
        {shown.map((entry) => (
          <li data-status={entry.status}>
            <span class="hidden">{planState(entry.status)}</span>{visible(entry.content)}
          </li>
        ))}
      </ul>
      {shown.length < row.entries.length && (
        <p class={`quiet ${styles["rest"]}`}>{t("chat.planPart", { from: from + 1, to: from + shown.length, all: row.entries.length })}</p>
      )}
    </details>
  );
}

function planState(status: string): string {
  const known = (["pending", "in_progress", "completed"] as const).find((one) => one === status);
  return known === undefined ? status : t(`chat.call.${known}`);
}

function Chevron() {
  return <span class={styles["chevron"]} aria-hidden="true"><Icon name="down" /></span>;
}
