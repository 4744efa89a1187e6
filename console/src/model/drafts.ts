/** What somebody has begun to write in a session, until the server has it: kept over a switch, a reload, a crash. */

import { type Signal, signal } from "@preact/signals";
import { forget, keep, recall } from "../api/keep.ts";
import { newId } from "./ids.ts";

const SAVE_MS = 400;

export interface Draft {
  text: string;
  /** As data: URLs. */
  images: string[];
  /** Sent again after an answer that was lost, the same prompt starts nothing twice. */
  messageId: string;
}

export class Drafts {
  private readonly open = new Map<string, Signal<Draft>>();
  private readonly timers = new Map<string, ReturnType<typeof setTimeout>>();

  of(sessionId: string): Signal<Draft> {
    let draft = this.open.get(sessionId);
    if (draft === undefined) {
      draft = signal(empty());
      this.open.set(sessionId, draft);
      void this.restore(sessionId, draft);
    }
    return draft;
  }

  change(sessionId: string, change: Partial<Pick<Draft, "text" | "images">>): void {
    const draft = this.of(sessionId);
    draft.value = { ...draft.value, ...change };
    clearTimeout(this.timers.get(sessionId));
    this.timers.set(sessionId, setTimeout(() => void keep(key(sessionId), draft.value), SAVE_MS));
  }

  /** The server has it. */
  sent(sessionId: string): void {
    clearTimeout(this.timers.get(sessionId));
    this.of(sessionId).value = empty();
    void forget(key(sessionId));
  }

  private async restore(sessionId: string, draft: Signal<Draft>): Promise<void> {
    const kept = await recall<Draft>(key(sessionId));
    const isUntouched = draft.value.text === "" && draft.value.images.length === 0;
    if (kept !== null && isUntouched) draft.value = kept;
  }
}

function key(sessionId: string): string {
  return `draft ${sessionId}`;
}

function empty(): Draft {
  return { text: "", images: [], messageId: newId() };
}
