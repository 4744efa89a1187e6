/** Comments on lines of a difference: drafts with what they are about, until they are sent as one prompt. */

import { type Signal, signal } from "@preact/signals";
import { forget, keep, recall } from "../api/keep.ts";

export interface Comment {
  id: string;
  path: string;
  line: number;
  /** The line as it was when somebody wrote about it. */
  excerpt: string;
  text: string;
}

export class Comments {
  private readonly open = new Map<string, Signal<readonly Comment[]>>();

  of(sessionId: string): Signal<readonly Comment[]> {
    let comments = this.open.get(sessionId);
    if (comments === undefined) {
      const made = (comments = signal<readonly Comment[]>([]));
      this.open.set(sessionId, made);
      void recall<Comment[]>(key(sessionId)).then((kept) => (made.value = [...(kept ?? []), ...made.value]));
    }
    return comments;
  }

  put(sessionId: string, comment: Comment): void {
    this.set(sessionId, [...this.of(sessionId).value.filter((one) => one.id !== comment.id), comment]);
  }

  remove(sessionId: string, id: string): void {
    this.set(sessionId, this.of(sessionId).value.filter((one) => one.id !== id));
  }

  clear(sessionId: string): void {
    this.of(sessionId).value = [];
    void forget(key(sessionId));
  }

  private set(sessionId: string, comments: readonly Comment[]): void {
    this.of(sessionId).value = comments;
    void keep(key(sessionId), comments);
  }
}

/** All of them in one prompt, each with its place and the line that it is about. Pure. */
export function asPrompt(comments: readonly Comment[]): string {
  const parts = comments.map(({ path, line, excerpt, text }) => `${path}:${line}\n> ${excerpt}\n${text}`);
  return `Please look at these comments on your changes:\n\n${parts.join("\n\n")}`;
}

function key(sessionId: string): string {
  return `comments ${sessionId}`;
}
