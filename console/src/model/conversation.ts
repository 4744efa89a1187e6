/** One session on the screen: its newest messages, those before them when asked for, and what comes, as it comes. */

import { signal } from "@preact/signals";
import { Cursor, follow, insist } from "../api/follow.ts";
import { type Api, ApiError, segment } from "../api/http.ts";
import { inPlace } from "../api/shared.ts";
import type { Job, MessagePage, Prompt } from "../api/types.ts";
import { areAll, asBatches } from "./history.ts";
import { type Row, Transcript } from "./transcript.ts";
import { shown } from "./turns.ts";

/** A hidden tab hangs up after so long; it reads on from where it was. */
const HIDDEN_MS = 30_000;
const PAGE = 100;
const NEWEST = 2 ** 52;

export class Conversation {
  transcript = new Transcript();
  /** Rises at most once for each picture that the screen shows. */
  readonly version = signal(0);
  /** What a turn has done can be looked at. */
  readonly turnsEnded = signal(0);
  readonly isConnected = signal(true);
  readonly isLoaded = signal(false);
  readonly error = signal<ApiError | null>(null);
  /** Something lies before the first row. */
  readonly hasOlder = signal(false);
  readonly jobs = signal<ReadonlyMap<string, Job>>(new Map());
  /** The steps of these turns are shown. */
  readonly unfolded = signal<ReadonlySet<string>>(new Set());
  readonly isFinding = signal(false);
  /** The row that somebody wants to see; a new object each time. */
  readonly wanted = signal<{ key: string } | null>(null);
  private firstSeq = 0;
  private pages = 0;
  private cursor = new Cursor(0);
  private reading: AbortController | null = null;
  private loadingOlder: Promise<void> | null = null;
  private hangUp: ReturnType<typeof setTimeout> | undefined;
  private frame = 0;

  constructor(
    private readonly api: Api,
    readonly sessionId: string,
  ) {}

  open(): void {
    document.addEventListener("visibilitychange", this.onVisibility);
    // A tab that was opened behind another one reads when somebody comes.
    if (!document.hidden) void this.read();
  }

  close(): void {
    document.removeEventListener("visibilitychange", this.onVisibility);
    clearTimeout(this.hangUp);
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.reading?.abort();
    this.reading = null;
  }

  /** Raises ApiError. The same `message_id` again changes nothing. */
  send(prompt: Omit<Prompt, "session_id" | "background">): Promise<unknown> {
    return this.api.post("generate/v2", { ...prompt, session_id: this.sessionId, background: true });
  }

  /** Answers when the agent and all that it started are gone. */
  stop(): Promise<unknown> {
    return this.api.delete(`generate/${segment(this.sessionId)}/stop`);
  }

  /** The messages before the first row; does nothing when there are none, or they are on their way. */
  older(): Promise<void> {
    if (!this.hasOlder.value) return Promise.resolve();
    const transcript = this.transcript;
    this.loadingOlder ??= this.page(this.firstSeq)
      .then((batches) => {
        if (transcript !== this.transcript) return;
        const before = new Transcript(`p${(this.pages += 1)}`);
        for (const batch of batches) before.apply(batch.id, batch.data);
        transcript.prepend(before);
        this.show();
      })
      .finally(() => (this.loadingOlder = null));
    return this.loadingOlder;
  }

  unfold(turn: string, isOpen: boolean): void {
    const turns = new Set(this.unfolded.value);
    if (isOpen) turns.add(turn);
    else turns.delete(turn);
    this.unfolded.value = turns;
  }

  /** Show a row, also where it is one of the steps of a turn that has ended. */
  goTo(row: Row | undefined): void {
    if (row === undefined) return;
    const rows = this.transcript.rows;
    const isThere = shown(rows, this.unfolded.value).some((one) => one.key === row.key);
    const end = rows.slice(rows.indexOf(row)).find((one) => one.kind === "done");
    if (!isThere && end !== undefined) this.unfold(`steps ${end.key}`, true);
    this.wanted.value = { key: row.key };
  }

  /** From the turn that was gone to last, or the newest one, to the next (1) or the one before (-1). */
  goToTurn(step: 1 | -1): void {
    const prompts = this.transcript.rows.filter((row) => row.kind === "user");
    const now = prompts.findIndex((row) => row.key === this.wanted.value?.key);
    const index = now < 0 ? (step < 0 ? prompts.length - 1 : -1) : now + step;
    if (index < 0 && this.hasOlder.value) void this.older().then(() => this.goToTurn(step), () => undefined);
    this.goTo(prompts[index]);
  }

  private async read(): Promise<void> {
    if (this.reading !== null) return;
    const { signal } = (this.reading = new AbortController());
    try {
      if (!this.isLoaded.value) await this.begin(signal);
      await inPlace(signal, () => this.follow(signal));
    } catch (error) {
      if (signal.aborted || !(error instanceof ApiError)) return;
      // The log does not reach so far: it is another one by this name, and what is shown is not its.
      if (error.status === 400 && this.cursor.after > 0) this.anew();
      else this.error.value = error;
    }
  }

  private async begin(signal: AbortSignal): Promise<void> {
    const batches = await insist(this.api, signal, () => this.page(NEWEST), () => (this.isConnected.value = false));
    // Who went away and has come back meanwhile reads by itself.
    signal.throwIfAborted();
    for (const batch of batches) this.transcript.apply(batch.id, batch.data);
    this.cursor = new Cursor(this.transcript.lastSeq);
    this.isLoaded.value = true;
    this.show();
  }

  private anew(): void {
    this.transcript = new Transcript();
    this.isLoaded.value = false;
    this.reading = null;
    void this.read();
  }

  /** A page of messages, with the ends of the turns that they belong to. */
  private async page(before: number): Promise<ReturnType<typeof asBatches>> {
    const path = `sessions/${segment(this.sessionId)}/messages`;
    const asked = this.api.get<MessagePage>(path, { format: "acp", questions: true, limit: PAGE, before });
    let [page, jobs] = await Promise.all([asked, before === NEWEST ? this.findJobs() : [...this.jobs.value.values()]]);
    // A turn may have ended between the two answers, and the next one have begun.
    if (before === NEWEST && !areAll(jobs, page)) jobs = await this.findJobs();
    this.firstSeq = page.firstEventId;
    this.hasOlder.value = page.firstEventId > 1;
    return asBatches(page, jobs);
  }

  private async findJobs(): Promise<Job[]> {
    const { jobs } = await this.api.get<{ jobs: Job[] }>("generate/v2/jobs", { session_id: this.sessionId, limit: 200 });
    this.jobs.value = new Map(jobs.map((job) => [job.taskId, job]));
    return jobs;
  }

  private follow(signal: AbortSignal): Promise<void> {
    const what = {
      path: `sessions/${segment(this.sessionId)}/events`,
      cursor: this.cursor,
      onBatch: ({ id, data }: { id: number; data: string[] }) => {
        this.transcript.apply(id, data);
        this.show();
      },
      onConnected: (isConnected: boolean) => (this.isConnected.value = isConnected),
    };
    return follow(this.api, what, signal);
  }

  private show(): void {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.version.value += 1;
      if (this.turnsEnded.value === this.transcript.turnsEnded) return;
      this.turnsEnded.value = this.transcript.turnsEnded;
      // What the turn has cost is with its job.
      void this.findJobs().catch(() => undefined);
    });
  }

  private readonly onVisibility = () => {
    clearTimeout(this.hangUp);
    if (!document.hidden) return void this.read();
    this.hangUp = setTimeout(() => {
      this.reading?.abort();
      this.reading = null;
    }, HIDDEN_MS);
  };
}
