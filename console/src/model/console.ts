/** What the whole page knows: who is signed in, all sessions, all questions, whether the server is there. */

import { computed, signal } from "@preact/signals";
import { Api, ApiError } from "../api/http.ts";
import { keepOpen } from "../api/follow.ts";
import { forgetAll, keep, recall } from "../api/keep.ts";
import { Shared } from "../api/shared.ts";
import type { Agent, Question, Session } from "../api/types.ts";
import { Comments } from "./comments.ts";
import { Conversation } from "./conversation.ts";
import { Drafts } from "./drafts.ts";
import { Notifier } from "./notifier.ts";
import { applyTheme, keepPreferences, loadPreferences, type Preferences } from "./preferences.ts";
import { Reading } from "./reading.ts";

type Activity =
  | { type: "connected"; isConnected: boolean }
  | { type: "snapshot"; sessions: Session[]; permissions: Question[] }
  | { type: "session"; session: Session }
  | { type: "session_deleted"; sessionId: string }
  | { type: "permission"; permission: Question }
  | { type: "permission_resolved"; requestId: string; taskId: string };

/** Conversations that stay in memory, for going back and forth. */
const MAX_KEPT = 6;
const TOKEN = "token";

export class Console {
  readonly token = signal<string | null>(null);
  /** False until it is known whether a token was kept. */
  readonly isLoaded = signal(false);
  readonly isConnected = signal(true);
  readonly hasSnapshot = signal(false);
  readonly keepsNothing = signal(false);
  /** The server does not know the token any more: somebody has to sign in, over what they were doing. */
  readonly isLocked = signal(false);
  /** The server's disk is full: what is there can be read. */
  readonly isFull = signal(false);
  /** A part of this page is gone from the server: a newer one has taken its place. */
  readonly isOutdated = signal(false);
  readonly drafts = new Drafts();
  private readonly notifier = new Notifier(() => this.preferences.peek().notifies);
  readonly reading = new Reading();
  readonly comments = new Comments();
  readonly preferences = signal(loadPreferences());
  /** Null until somebody has asked. */
  readonly agents = signal<readonly Agent[] | null>(null);
  /** What is shown over the page. */
  readonly overlay = signal<"palette" | "keys" | null>(null);
  readonly sessions = signal<readonly Session[]>([]);
  readonly questions = signal<readonly Question[]>([]);
  readonly waiting = computed(() => new Set(this.questions.value.map((question) => question.sessionId)));
  readonly api: Api;
  /** What somebody signs in with, until it is known whether it is good. */
  private tried: string | null = null;
  private watching: AbortController | null = null;
  private readonly conversations = new Map<string, Conversation>();
  private onSignedIn: (() => void)[] = [];

  constructor(root: string) {
    this.api = new Api(root, {
      token: () => this.tried ?? this.token.peek(),
      onUnauthorized: () => (this.isLocked.value = this.token.peek() !== null && this.isLoaded.peek()),
      signedIn: () => new Promise((resolve) => this.onSignedIn.push(resolve)),
      onStorage: (isFull) => (this.isFull.value = isFull),
    });
  }

  /**
   * `code`: good once, from `agentsrv open`; it makes this device a token of its own. `onSignedIn`: before anything is
   * drawn, for what takes the server a moment.
   */
  async load(code: string | null, onSignedIn: () => void): Promise<void> {
    applyTheme(this.preferences.value);
    this.token.value = code === null ? await recall<string>(TOKEN) : await this.redeem(code);
    if (this.token.value !== null) onSignedIn();
    this.isLoaded.value = true;
    if (this.token.value !== null) this.watch();
  }

  /** With a key, a device's token, or a code that is good once. Raises ApiError (401) for what is none of them. */
  async signIn(given: string, isKept: boolean): Promise<void> {
    this.tried = given;
    try {
      this.tried = await this.tokenOf(given);
      // What stays in a browser is a token of its own, never the server's key.
      if (isKept) this.keepsNothing.value = !(await this.keep(this.tried));
      this.token.value = this.tried;
    } finally {
      this.tried = null;
    }
    this.isLocked.value = false;
    for (const resolve of this.onSignedIn.splice(0)) resolve();
    if (this.watching === null) this.watch();
  }

  /** Follow nothing any more. */
  leave(): void {
    this.watching?.abort();
    this.watching = null;
    for (const conversation of this.conversations.values()) conversation.close();
  }

  signOut(): void {
    this.leave();
    this.conversations.clear();
    this.token.value = null;
    this.isLocked.value = false;
    this.hasSnapshot.value = false;
    void forgetAll();
  }

  /** The same one for as long as few others were looked at since. */
  conversation(sessionId: string): Conversation {
    const found = this.conversations.get(sessionId) ?? new Conversation(this.api, sessionId);
    this.conversations.delete(sessionId);
    this.conversations.set(sessionId, found);
    for (const [id] of this.conversations) if (this.conversations.size > MAX_KEPT) this.conversations.delete(id);
    return found;
  }

  /** A part of the page that is loaded when it is needed. */
  async part<T>(load: () => Promise<T>): Promise<T> {
    try {
      return await load();
    } catch (error) {
      this.isOutdated.value = navigator.onLine;
      throw error;
    }
  }

  async loadAgents(): Promise<readonly Agent[]> {
    const { agents } = await this.api.get<{ agents: Agent[] }>("agents");
    return (this.agents.value = agents);
  }

  prefer(change: Partial<Preferences>): void {
    this.preferences.value = { ...this.preferences.value, ...change };
    keepPreferences(this.preferences.value);
    applyTheme(this.preferences.value);
  }

  session(id: string): Session | undefined {
    return this.sessions.value.find((session) => session.id === id);
  }

  /** Null for a code that is used, or too old. */
  private async redeem(code: string, isKept = true): Promise<string | null> {
    try {
      const { token } = await this.api.post<{ token: string }>("auth/codes/redeem", { code, name: deviceName() });
      if (isKept) void keep(TOKEN, token).then((isDone) => (this.keepsNothing.value = !isDone));
      return token;
    } catch {
      return null;
    }
  }

  private async tokenOf(given: string): Promise<string> {
    try {
      await this.api.get("permissions");
      return given;
    } catch (reason) {
      const token = reason instanceof ApiError && reason.status === 401 ? await this.redeem(given, false) : null;
      if (token === null) throw reason;
      return token;
    }
  }

  private async keep(token: string): Promise<boolean> {
    try {
      this.tried = (await this.api.post<{ token: string }>("auth/tokens", { name: deviceName() })).token;
    } catch (error) {
      // A device token was pasted: it may not make others, and is what is to be kept.
      if (!(error instanceof ApiError && error.status === 403)) return false;
    }
    return keep(TOKEN, this.tried ?? token);
  }

  private watch(): void {
    this.watching?.abort();
    const { signal } = (this.watching = new AbortController());
    const shared = new Shared<Activity>(
      (tell, ended) => this.lead(tell, ended),
      (news) => this.take(news),
      () => (this.hasSnapshot.peek() ? { type: "snapshot", sessions: [...this.sessions.peek()], permissions: [...this.questions.peek()] } : null),
    );
    shared.run(signal).catch(() => !signal.aborted && (this.isConnected.value = false));
  }

  private lead(tell: (news: Activity) => void, signal: AbortSignal): Promise<void> {
    const stream = {
      path: "activity",
      query: () => ({}),
      onFrame: (frame: { data: string }) => tell(JSON.parse(frame.data) as Activity),
      onConnected: (isConnected: boolean) => tell({ type: "connected", isConnected }),
    };
    return keepOpen(this.api, stream, signal);
  }

  private take(news: Activity): void {
    switch (news.type) {
      case "connected":
        this.isConnected.value = news.isConnected;
        return;
      case "snapshot":
        this.sessions.value = news.sessions;
        this.questions.value = news.permissions;
        this.hasSnapshot.value = true;
        return;
      case "session":
        this.notifier.changed(this.session(news.session.id), news.session);
        this.sessions.value = [news.session, ...this.without(news.session.id)];
        return;
      case "session_deleted":
        this.sessions.value = this.without(news.sessionId);
        this.questions.value = this.questions.value.filter((asked) => asked.sessionId !== news.sessionId);
        return;
      case "permission":
        this.resolved(news.permission.taskId, news.permission.requestId);
        this.questions.value = [...this.questions.value, news.permission];
        this.notifier.asked(news.permission, this.session(news.permission.sessionId));
        return;
      case "permission_resolved":
        this.resolved(news.taskId, news.requestId);
        return;
    }
  }

  private without(sessionId: string): Session[] {
    return this.sessions.value.filter((session) => session.id !== sessionId);
  }

  /** A request's id is the agent's own: only together with its job it names one question. */
  private resolved(taskId: string, requestId: string): void {
    this.questions.value = this.questions.value.filter(
      (asked) => asked.requestId !== requestId || asked.taskId !== taskId,
    );
  }
}

function deviceName(): string {
  const platform = /\(([^);]+)/.exec(navigator.userAgent)?.[1] ?? "browser";
  return `console on ${platform}`.slice(0, 64);
}
