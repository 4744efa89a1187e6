/** Tells, outside of the page, of questions and of turns that ended, for as long as the page is open and not looked at. */

import type { Question, Session } from "../api/types.ts";
import { t } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import { sessionHash } from "./route.ts";

const RUNNING = new Set(["running", "waiting"]);
const ENDED = new Set(["idle", "failed", "queued"]);

export class Notifier {
  constructor(private readonly isWanted: () => boolean) {}

  asked(question: Question, session: Session | undefined): void {
    const title = t("notify.asks", { session: nameOf(session, question.sessionId) });
    this.tell(title, visible(question.title), `${question.taskId} ${question.requestId}`, question.sessionId);
  }

  changed(before: Session | undefined, now: Session): void {
    if (!RUNNING.has(before?.status ?? "") || !ENDED.has(now.status ?? "")) return;
    const title = t("notify.ended", { session: nameOf(now, now.id), status: now.lastJob?.status ?? "" });
    this.tell(title, visible(now.lastJob?.error ?? ""), `${now.id} ended`, now.id);
  }

  private tell(title: string, body: string, tag: string, sessionId: string): void {
    if (!this.isWanted() || !document.hidden || !("Notification" in window) || Notification.permission !== "granted") return;
    // Of several tabs that tell the same, the last one counts.
    const shown = new Notification(title, { body, tag, icon: "icon.svg" });
    shown.onclick = () => {
      window.focus();
      location.hash = sessionHash(sessionId);
      shown.close();
    };
  }
}

function nameOf(session: Session | undefined, id: string): string {
  return visible(session?.name || id);
}
