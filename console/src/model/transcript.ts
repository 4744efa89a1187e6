/**
 * A session's events as rows for people. A pure fold: the same events give the same rows, however they were cut.
 *
 * Events are the frames of `format=acp` (docs/events.md). Rows are changed in place; `version` rises with each batch.
 */

import type { ContentBlock, PlanEntry, SessionUpdate, ToolCallContent, ToolCallStatus } from "@agentclientprotocol/sdk";

export type CallStatus = ToolCallStatus;

interface Common {
  /** Known for as long as the row lives. */
  key: string;
  /** The event that it began with. */
  seq: number;
  /** Rises when the row changes, so that only changed rows are drawn again. */
  version: number;
}

export interface UserRow extends Common {
  kind: "user";
  text: string;
  images: string[];
}
export interface TextRow extends Common {
  kind: "text" | "thought";
  text: string;
  isOpen: boolean;
}
export interface CallRow extends Common {
  kind: "call";
  title: string;
  tool: string;
  status: CallStatus;
  input: unknown;
  content: CallContent[];
  output: string;
  progress: string;
  exitCode: number | null;
  /** What a subagent said and did inside this call. */
  children: Row[];
}
export interface PlanRow extends Common {
  kind: "plan";
  entries: { content: string; status: string }[];
}
export interface NoteRow extends Common {
  kind: "notice" | "error" | "raw" | "gap";
  text: string;
}
export interface QuestionRow extends Common {
  kind: "question";
  question: Asked;
  answer: Answer | null;
}
/** What was said to a question; `chosen`: to what only a person knew. */
export interface Answer {
  decision: string;
  message?: string;
  chosen?: string[];
}
export interface DoneRow extends Common {
  kind: "done";
  taskId: string;
  status: string;
  error: string | null;
}
export type Row = UserRow | TextRow | CallRow | PlanRow | NoteRow | QuestionRow | DoneRow;

export type CallContent =
  | { type: "text"; text: string }
  | { type: "diff"; path: string; old: string; new: string }
  | { type: "image"; url: string };

export interface Asked {
  requestId: string;
  taskId: string;
  kind: "permission" | "question";
  tool: string;
  title: string;
  input: Record<string, unknown>;
  canRemember: boolean;
}

const MAX_OUTPUT = 64 * 1024;
const NO_TURN = "plan ";

type Json = Record<string, unknown>;
/** What has come over the wire: the protocol says which names there may be, and nobody what is there. */
type Loose<T> = { readonly [Name in T extends unknown ? keyof T : never]?: unknown };
type Update = Loose<SessionUpdate>;

export class Transcript {
  readonly rows: Row[] = [];
  version = 0;
  lastSeq = 0;
  turnsEnded = 0;
  title: string | null = null;
  usage: { used: number; size: number } | null = null;
  private readonly byKey = new Map<string, Row>();
  /** Rows of a subagent, and the call that they belong to, which began on an earlier page. */
  private readonly orphans = new Map<Row, string>();
  /** Answers to questions that were asked on an earlier page. */
  private readonly answers = new Map<string, Answer>();
  private serial = 0;

  /** `name`: keeps the keys of several transcripts of one conversation apart. */
  constructor(private readonly name = "") {}

  /** Put what came before this in front of it. What began there and went on here becomes one row. */
  prepend(before: Transcript): void {
    const joined = this.adopted(before);
    this.renamePlan(before.planKey());
    for (const [key, answer] of before.answers) this.answers.set(key, answer);
    for (const [key, row] of before.byKey) {
      if (row.kind === "question") row.answer ??= this.answers.get(key) ?? null;
      const later = this.byKey.get(key);
      if (later !== undefined) {
        join(row, later);
        joined.add(later);
      }
      this.byKey.set(key, row);
    }
    const rows = [...before.rows];
    for (const row of this.rows) {
      const last = rows.at(-1);
      if (joined.has(row)) continue;
      if (last !== undefined && isOneText(last, row)) {
        join(last, row);
        this.byKey.set(row.key, last);
      } else rows.push(row);
    }
    this.rows.splice(0, this.rows.length, ...rows);
    const end = this.rows.findIndex((row, index) => row.kind === "done" && index >= before.rows.length);
    if (end >= 0) this.closeOpen(end);
    this.version += 1;
  }

  /** A plan of a turn that began on the page before has its name only now. */
  private renamePlan(key: string): void {
    const plan = this.byKey.get(NO_TURN);
    if (plan === undefined) return;
    this.byKey.delete(NO_TURN);
    plan.key = key;
    this.byKey.set(key, plan);
  }

  /** Each turn has one. */
  private planKey(): string {
    return NO_TURN + (this.rows.findLast((row) => row.kind === "user" || row.kind === "done")?.key ?? "");
  }

  /** The rows that belong into calls of the page before: they are there now. */
  private adopted(before: Transcript): Set<Row> {
    const found = new Set<Row>();
    for (const [row, key] of this.orphans) {
      const parent = before.byKey.get(key);
      if (parent?.kind !== "call") continue;
      this.orphans.delete(row);
      if (before.byKey.has(row.key)) continue;
      parent.children.push(row);
      parent.version += 1;
      found.add(row);
    }
    for (const [row, key] of before.orphans) this.orphans.set(row, key);
    return found;
  }

  /** All frames of one event, with its number. */
  apply(seq: number, frames: readonly string[]): void {
    for (const frame of frames) this.read(seq, parse(frame));
    this.lastSeq = seq;
    this.version += 1;
  }

  private read(seq: number, message: Json): void {
    if (isObject(message["update"])) return this.update(seq, message["update"]);
    if (message["done"] === true) return this.done(seq, message);
    switch (message["type"]) {
      case "permission_request":
        return this.asked(seq, message);
      case "permission_resolved":
        return this.answered(message);
      case "error":
        return this.note(seq, "error", text(message["error"]));
      case "raw":
        return this.note(seq, "raw", text(message["data"]));
      case "gap":
        return this.gap(seq, Number(message["after"]));
      case "worktree_init":
      case "system":
        return message["subtype"] === "worktree_init"
          ? this.note(seq, "notice", text(message["cwd"]))
          : this.note(seq, "raw", JSON.stringify(message));
      default:
        return this.note(seq, "raw", JSON.stringify(message));
    }
  }

  private update(seq: number, update: Update): void {
    const kind = update.sessionUpdate as SessionUpdate["sessionUpdate"];
    switch (kind) {
      case "user_message_chunk":
        return this.userChunk(seq, update);
      case "agent_message_chunk":
        return this.textChunk(seq, "text", update);
      case "agent_thought_chunk":
        return this.textChunk(seq, "thought", update);
      case "tool_call":
      case "tool_call_update":
        return this.call(seq, update);
      case "plan":
        return this.plan(seq, update);
      case "usage_update":
        this.usage = { used: number(update.used), size: number(update.size) };
        return;
      case "session_info_update":
        return this.info(seq, update);
      case "available_commands_update":
      case "config_option_update":
      case "current_mode_update":
        return; // What could be done, not what was.
      case "notice":
      case "compaction_update":
      case "compaction_summary_chunk":
        return this.note(seq, "raw", JSON.stringify(update)); // Sent only to who has asked for them: nobody has.
      default:
        kind satisfies never; // What a newer protocol has is to be thought of here; agents may send it before.
        return this.note(seq, "raw", JSON.stringify(update));
    }
  }

  private userChunk(seq: number, update: Update): void {
    const key = `user ${text(update.messageId) || seq}`;
    const row = this.row(key, () => ({ kind: "user", key, seq, version: 0, text: "", images: [] }));
    if (row.kind !== "user") return;
    const content = loose<ContentBlock>(update.content);
    if (content.type === "image") row.images.push(imageUrl(content));
    else row.text += text(content.text);
  }

  private textChunk(seq: number, kind: "text" | "thought", update: Update): void {
    const id = text(update.messageId);
    const parent = this.parent(update);
    const last = (parent?.children ?? this.rows).at(-1);
    const continued = id === "" && last?.kind === kind ? last.key : "";
    const key = continued || `${kind} ${id || this.number()}`;
    const row = this.row(key, () => ({ kind, key, seq, version: 0, text: "", isOpen: true }), parent, parentOf(update));
    if (row.kind === "text" || row.kind === "thought") row.text += text(loose<ContentBlock>(update.content).text);
  }

  private call(seq: number, update: Update): void {
    const key = `call ${text(update.toolCallId)}`;
    const row = this.row(key, () => newCall(key, seq), this.parent(update), parentOf(update));
    if (row.kind !== "call") return;
    if (typeof update.title === "string") row.title = update.title;
    if (typeof update.kind === "string") row.tool = update.kind;
    if (isStatus(update.status)) row.status = update.status;
    if (update.rawInput !== undefined) row.input = update.rawInput;
    if (Array.isArray(update.content)) row.content = update.content.flatMap(callContent);
    const exitCode = object(update.rawOutput)["exitCode"];
    if (typeof exitCode === "number") row.exitCode = exitCode;
    const ours = object(object(update._meta)["agentsrv"]);
    if (typeof ours["output"] === "string") row.output = (row.output + ours["output"]).slice(-MAX_OUTPUT);
    if (typeof ours["progress"] === "string") row.progress = ours["progress"];
  }

  private plan(seq: number, update: Update): void {
    const key = this.planKey();
    const row = this.row(key, () => ({ kind: "plan", key, seq, version: 0, entries: [] }));
    const entries = Array.isArray(update.entries) ? update.entries.map((entry) => loose<PlanEntry>(entry)) : [];
    if (row.kind === "plan")
      row.entries = entries.map((entry) => ({ content: text(entry.content), status: text(entry.status) }));
  }

  private info(seq: number, update: Update): void {
    if (typeof update.title === "string") this.title = update.title;
    const notice = object(object(object(update._meta)["agentsrv"])["notice"]);
    if (typeof notice["message"] === "string") this.note(seq, "notice", notice["message"]);
  }

  private asked(seq: number, message: Json): void {
    const key = questionKey(message);
    this.row(key, () => ({ kind: "question", key, seq, version: 0, question: asAsked(message), answer: null }));
  }

  private answered(message: Json): void {
    const row = this.byKey.get(questionKey(message));
    if (row?.kind !== "question") return void this.answers.set(questionKey(message), asAnswer(message));
    row.answer = asAnswer(message);
    row.version += 1;
  }

  private done(seq: number, message: Json): void {
    this.turnsEnded += 1;
    this.closeOpen();
    const key = `done ${seq}`;
    const error = typeof message["error"] === "string" ? message["error"] : null;
    const taskId = text(message["taskId"]);
    this.row(key, () => ({ kind: "done", key, seq, version: 0, taskId, status: text(message["status"]), error }));
  }

  /** The texts of the turn that ends at this row grow no more. */
  private closeOpen(end = this.rows.length): void {
    for (let index = end - 1; index >= 0; index -= 1) {
      const row = this.rows[index];
      if (row === undefined || row.kind === "done") return;
      close(row);
    }
  }

  /** What had a higher number than `after` was never kept. */
  private gap(seq: number, after: number): void {
    for (const row of this.rows.splice(0)) {
      if (row.seq <= after) this.rows.push(row);
      else this.byKey.delete(row.key);
    }
    this.note(seq, "gap", "");
  }

  private note(seq: number, kind: NoteRow["kind"], words: string): void {
    const key = `${kind} ${this.number()}`;
    this.row(key, () => ({ kind, key, seq, version: 0, text: words }));
  }

  /** The call of a subagent that an update belongs to. */
  private parent(update: Update): CallRow | undefined {
    const row = this.byKey.get(parentOf(update));
    return row?.kind === "call" ? row : undefined;
  }

  private number(): string {
    return `#${this.name}${this.serial++}`;
  }

  private row(key: string, make: () => Row, parent?: CallRow, parentKey = ""): Row {
    let row = this.byKey.get(key);
    if (row === undefined) {
      row = make();
      this.byKey.set(key, row);
      (parent?.children ?? this.rows).push(row);
      if (parent === undefined && parentKey !== "") this.orphans.set(row, parentKey);
    }
    row.version += 1;
    if (parent !== undefined) parent.version += 1;
    return row;
  }
}

/** The key of the call that an update of a subagent belongs to; else empty. */
function parentOf(update: Update): string {
  const id = text(object(object(update._meta)["agentsrv"])["parentToolCallId"]);
  return id === "" ? "" : `call ${id}`;
}

/** A text grows no more, nor do those in a call. */
function close(row: Row): void {
  if (row.kind === "call") row.children.forEach(close);
  if ((row.kind !== "text" && row.kind !== "thought") || !row.isOpen) return;
  row.isOpen = false;
  row.version += 1;
}

/** Pieces of a text whose agent gives its messages no names: one row, however they were cut. */
function isOneText(last: Row, first: Row): boolean {
  return last.kind === first.kind && /^(text|thought) #/.test(last.key) && /^(text|thought) #/.test(first.key);
}

/** A row of an earlier page takes what a later one by its key says. */
function join(row: Row, later: Row): void {
  row.version += 1 + later.version;
  if (row.kind === "user" && later.kind === "user") {
    row.text += later.text;
    row.images.push(...later.images);
  } else if ((row.kind === "text" || row.kind === "thought") && later.kind === row.kind) {
    row.text += later.text;
    row.isOpen = later.isOpen;
  } else if (row.kind === "call" && later.kind === "call") joinCalls(row, later);
  else if (row.kind === "plan" && later.kind === "plan") row.entries = later.entries;
  else if (row.kind === "question" && later.kind === "question") row.answer ??= later.answer;
}

function joinCalls(row: CallRow, later: CallRow): void {
  row.title = later.title || row.title;
  row.tool = later.tool === "other" ? row.tool : later.tool;
  row.status = later.status === "pending" ? row.status : later.status;
  row.input = later.input ?? row.input;
  row.content = later.content.length > 0 ? later.content : row.content;
  row.output += later.output;
  row.progress = later.progress || row.progress;
  row.exitCode = later.exitCode ?? row.exitCode;
  row.children.push(...later.children);
}

/** A `permission_request`, from the stream or from GET /permissions. */
export function asAsked(message: Json): Asked {
  const options = Array.isArray(message["options"]) ? message["options"].map(object) : [];
  return {
    requestId: text(message["requestId"]),
    taskId: text(message["taskId"]),
    kind: message["kind"] === "question" ? "question" : "permission",
    tool: text(message["tool"]),
    title: text(message["title"]),
    input: object(message["input"]),
    canRemember: options.some((option) => option["remember"] === "session"),
  };
}

/** A request's id is the agent's own: only together with its job it names one question. */
function questionKey(message: Json): string {
  return `question ${text(message["taskId"])} ${text(message["requestId"])}`;
}

/** What a `permission_resolved` says. */
function asAnswer(message: Json): Answer {
  const said = message["message"];
  const chosen = Object.values(object(object(message["updatedInput"])["answers"])).flat().map(text).filter(Boolean);
  return {
    decision: text(message["decision"]),
    ...(typeof said === "string" ? { message: said } : {}),
    ...(chosen.length > 0 ? { chosen } : {}),
  };
}

/** The answer to a question, among messages that may have it. */
export function answerIn(messages: readonly unknown[], { taskId, requestId }: Asked): QuestionRow["answer"] {
  const found = messages.map(object).findLast((one) =>
    one["type"] === "permission_resolved" && one["requestId"] === requestId && one["taskId"] === taskId);
  return found === undefined ? null : asAnswer(found);
}

function newCall(key: string, seq: number): CallRow {
  return {
    kind: "call", key, seq, version: 0, title: "", tool: "other", status: "pending",
    input: undefined, content: [], output: "", progress: "", exitCode: null, children: [],
  };
}

function callContent(value: unknown): CallContent[] {
  const item = loose<ToolCallContent>(value);
  if (item.type === "diff")
    return [{ type: "diff", path: text(item.path), old: text(item.oldText), new: text(item.newText) }];
  const block = loose<ContentBlock>(item.content);
  if (block.type === "text") return [{ type: "text", text: text(block.text) }];
  if (block.type === "image") return [{ type: "image", url: imageUrl(block) }];
  return [];
}

/** Only the four types that the server takes; nothing else becomes a URL. */
function imageUrl(block: Loose<ContentBlock>): string {
  const type = text(block.mimeType);
  return /^image\/(png|jpeg|gif|webp)$/.test(type) ? `data:${type};base64,${text(block.data)}` : "";
}

function parse(frame: string): Json {
  try {
    return object(JSON.parse(frame));
  } catch {
    return { type: "raw", data: frame };
  }
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function object(value: unknown): Json {
  return isObject(value) ? value : {};
}

/** An object of the protocol's, once it is one at all. */
function loose<T>(value: unknown): Loose<T> {
  return object(value) as Loose<T>;
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function number(value: unknown): number {
  return typeof value === "number" ? value : 0;
}

function isStatus(value: unknown): value is CallStatus {
  return value === "pending" || value === "in_progress" || value === "completed" || value === "failed";
}
