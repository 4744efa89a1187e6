import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { segment } from "../api/http.ts";
import { keep, recall } from "../api/keep.ts";
import type { MessagePage, Question, Session } from "../api/types.ts";
import type { Console } from "../model/console.ts";
import { answerIn, asAsked } from "../model/transcript.ts";
import { sessionHash } from "../model/route.ts";
import { ago, t } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import styles from "./Inbox.module.css";
import { useLoaded } from "./load.ts";
import { useNow } from "./now.ts";
import { Answered, QuestionCard } from "./QuestionCard.tsx";
import { statusWord } from "./RowView.tsx";
import { Skeleton } from "./Skeleton.tsx";
import { StatusMark } from "./StatusMark.tsx";

/** All that waits for somebody, in all sessions, the oldest first; then what ended since the last visit. */
export function Inbox({ page }: { page: Console }) {
  const questions = [...page.questions.value].sort((a, b) => (a.createdAt ?? "").localeCompare(b.createdAt ?? ""));
  const ended = useEnded(page);
  const settled = useSettled(page);
  return (
    <section class={styles["inbox"]} aria-labelledby="inbox">
      <h1 id="inbox">{t("nav.inbox")}</h1>
      {!page.hasSnapshot.value && <Skeleton />}
      {page.hasSnapshot.value && questions.length === 0 && (
        <div class="empty"><p>{t("inbox.empty")}</p><p class="quiet">{t("inbox.emptyHint")}</p></div>
      )}
      {questions.map((question) => (
        <article key={`${question.taskId} ${question.requestId}`} class={styles["item"]}>
          <a class={styles["session"]} href={sessionHash(question.sessionId)}>
            {visible(page.session(question.sessionId)?.name || question.sessionId)}
          </a>
          <span class="quiet">{visible(page.session(question.sessionId)?.cwd ?? "")}</span>
          <QuestionCard api={page.api} asked={asAsked({ ...question })} answer={null}
            since={question.createdAt ?? null} expires={question.expiresAt ?? null} />
        </article>
      ))}
      {settled.map((question) => <Settled key={`${question.taskId} ${question.requestId}`} page={page} question={question} />)}
      {ended.length > 0 && (
        <>
          <h2 class={styles["heading"]}>{t("inbox.ended")}</h2>
          <ul class={styles["ended"]}>{ended.map((session) => <Ended key={session.id} session={session} />)}</ul>
        </>
      )}
    </section>
  );
}

/** What was asked while somebody was here, and waits no more. */
function useSettled(page: Console): readonly Question[] {
  const waiting = page.questions.value;
  const seen = useRef(new Map<string, Question>());
  const key = (question: Question) => `${question.taskId} ${question.requestId}`;
  for (const question of waiting) seen.current.set(key(question), question);
  const now = new Set(waiting.map(key));
  return [...seen.current.values()].filter((question) => !now.has(key(question)) && page.session(question.sessionId) !== undefined);
}

const NEWEST = 2 ** 52;

/** Somebody has answered, here or elsewhere: it says what. */
function Settled({ page, question }: { page: Console; question: Question }) {
  const path = `sessions/${segment(question.sessionId)}/messages`;
  const found = useLoaded(() => page.api.get<MessagePage>(path, { format: "acp", questions: true, before: NEWEST }), []);
  const asked = asAsked({ ...question });
  const answer = (found.value && answerIn(found.value.messages, asked)) ?? { decision: t("question.settled") };
  return found.value === null && found.problem === null ? null : <Answered asked={asked} answer={answer} />;
}

function Ended({ session }: { session: Session }) {
  const now = useNow();
  return (
    <li>
      <a href={sessionHash(session.id)}>
        <StatusMark status={session.status ?? "idle"} />
        <strong>{visible(session.name || session.preview || session.id)}</strong>
        <span class="quiet">{statusWord(session.lastJob?.status ?? "")} · {ago(session.lastJob?.finishedAt ?? session.updatedAt, now)}</span>
      </a>
    </li>
  );
}

const VISITED = "inbox visited";
const FIRST_MS = 24 * 3600 * 1000;

/** Sessions whose last turn has ended since somebody was here before, the newest first. */
function useEnded(page: Console): Session[] {
  const since = useSignal(Infinity);
  useEffect(() => {
    const came = Date.now();
    void recall<number>(VISITED).then((before) => (since.value = before ?? came - FIRST_MS));
    return () => void keep(VISITED, Date.now());
  }, []);
  const endedAt = (session: Session) => Date.parse(session.lastJob?.finishedAt ?? "") || 0;
  return page.sessions.value
    .filter((session) => endedAt(session) > since.value && (session.status === "idle" || session.status === "failed"))
    .sort((a, b) => endedAt(b) - endedAt(a));
}
