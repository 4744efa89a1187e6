/** Something that a person wants done: under way, refused, or tried again when the server said so. */

import { signal } from "@preact/signals";
import { ApiError } from "../api/http.ts";

export class Attempt {
  readonly isBusy = signal(false);
  readonly problem = signal<unknown>(null);
  /** Seconds until it is tried again by itself. */
  readonly retryInS = signal<number | null>(null);
  private stopWaiting: (() => void) | null = null;

  /** True when it is done. An attempt that runs already takes no other. */
  async run(action: () => Promise<unknown>): Promise<boolean> {
    if (this.isBusy.value) return false;
    this.isBusy.value = true;
    this.problem.value = null;
    try {
      return await this.insist(action);
    } finally {
      this.isBusy.value = false;
    }
  }

  /** Do not try again by itself. */
  stop(): void {
    this.stopWaiting?.();
  }

  clear(): void {
    this.stop();
    this.problem.value = null;
  }

  private async insist(action: () => Promise<unknown>): Promise<boolean> {
    for (;;) {
      try {
        await action();
        this.problem.value = null;
        return true;
      } catch (reason) {
        this.problem.value = reason;
        const pause = pauseOf(reason);
        if (pause === null || !(await this.countDown(pause))) return false;
      }
    }
  }

  /** False when it was stopped. */
  private countDown(seconds: number): Promise<boolean> {
    return new Promise((resolve) => {
      const end = (isOver: boolean) => {
        clearInterval(timer);
        this.stopWaiting = null;
        this.retryInS.value = null;
        resolve(isOver);
      };
      this.retryInS.value = seconds;
      this.stopWaiting = () => end(false);
      const timer = setInterval(() => {
        const left = (this.retryInS.value ?? 1) - 1;
        if (left > 0) this.retryInS.value = left;
        else end(true);
      }, 1000);
    });
  }
}

/** How long a server that is busy or going down wants to be left alone; null when trying again does not help. */
function pauseOf(reason: unknown): number | null {
  if (!(reason instanceof ApiError) || (reason.status !== 429 && reason.status !== 503)) return null;
  return reason.retryAfterS === null ? null : Math.max(1, Math.ceil(reason.retryAfterS));
}
