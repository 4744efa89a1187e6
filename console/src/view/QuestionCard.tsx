import { type Signal, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { type Api, ApiError, segment } from "../api/http.ts";
import type { Answer, Asked, QuestionRow } from "../model/transcript.ts";
import { type Key } from "../i18n/en.ts";
import { ago, t, until } from "../i18n/index.ts";
import { hasHidden, visible } from "../text/visible.ts";
import { AskedInput } from "./AskedInput.tsx";
import styles from "./QuestionCard.module.css";
import { explain as inWords } from "./Problem.tsx";
import { useNow } from "./now.ts";
import { QuestionForm } from "./QuestionForm.tsx";

/** Who is about to tap something else must not answer a card that has just come under the finger. */
const INERT_MS = 500;
/** So often it is looked whether the card has moved; a tap looks once more. */
const LOOK_MS = 100;
const MOVED_PX = 2;

type Decision = { decision: "allow" | "deny"; remember?: "session"; message?: string; updatedInput?: object };

interface Props {
  api: Api;
  asked: Asked;
  answer: QuestionRow["answer"];
  since?: string | null;
  expires?: string | null;
}

/** What an agent asks, whole, and the ways to answer. The same in a conversation and in the inbox. */
export function QuestionCard({ api, asked, answer, since, expires }: Props) {
  const error = useSignal("");
  const isSent = useSignal(false);
  const isDenying = useSignal(false);
  const card = useRef<HTMLElement>(null);
  const still = useStill(card, answer === null);
  const isInert = isSent.value || !still.is.value;
  if (answer !== null) return <Answered asked={asked} answer={answer} />;

  const give = async (decision: Decision) => {
    // A reason was typed: that is meant, though its form has just moved the card.
    if (isSent.value || !(isDenying.value || still.look())) return;
    isSent.value = true;
    try {
      await api.post(`generate/v2/jobs/${segment(asked.taskId)}/permissions/${segment(asked.requestId)}`, decision);
    } catch (reason) {
      error.value = explain(reason);
      isSent.value = false;
    }
  };
  const allow = () => void give({ decision: "allow" });
  const always = () => void give({ decision: "allow", remember: "session" });
  const onKey = (event: KeyboardEvent) => {
    if (event.target !== card.current || event.ctrlKey || event.metaKey || event.altKey) return;
    const deny = () => (isDenying.value = true);
    const action = asked.kind === "permission" ? { y: allow, a: always, d: deny } : { d: deny };
    const chosen = action[event.key.toLowerCase() as keyof typeof action];
    if (chosen === undefined || (chosen === always && !asked.canRemember)) return;
    event.preventDefault();
    chosen();
  };
  const title = t(titleOf(asked));
  const form = `answer ${asked.taskId} ${asked.requestId}`;
  return (
    <section class={styles["card"]} ref={card} tabIndex={0} onKeyDown={onKey} aria-label={`${title} ${visible(asked.title)}`}>
      <header class={styles["head"]}>
        <h2>{title}</h2>
        {asked.kind === "permission" && <span class="quiet">{visible(asked.tool)}</span>}
      </header>
      {asked.kind === "permission" ? (
        <>
          <AskedInput input={asked.input} />
          {hasHidden(JSON.stringify(asked.input)) && <p class="error">{t("question.hidden")}</p>}
        </>
      ) : (
        <QuestionForm id={form} asked={asked}
          onAnswer={(answers) => void give({ decision: "allow", updatedInput: { answers } })} />
      )}
      <Times since={since} expires={expires} />
      <p class="error" role="alert">{error.value}</p>
      {isDenying.value ? (
        <DenyForm onDeny={(message) => void give({ decision: "deny", ...(message ? { message } : {}) })}
          onBack={() => (isDenying.value = false)} />
      ) : (
        <div class={styles["buttons"]} aria-disabled={isInert}>
          {asked.kind === "permission"
            ? <Button label="question.allow" hint="Y" isMain onPress={allow} />
            : <button type="submit" form={form} class="primary" disabled={isInert}>{t("question.answer")}</button>}
          {asked.kind === "permission" && asked.canRemember && (
            <Button label="question.always" hint="A" onPress={always} />
          )}
          <Button label="question.deny" hint="D" onPress={() => (isDenying.value = true)} />
        </div>
      )}
    </section>
  );
}

/** Whether the card has stood where it stands for a while; `look` says it for this moment. */
function useStill(card: { current: HTMLElement | null }, isAsked: boolean): { is: Signal<boolean>; look(): boolean } {
  const is = useSignal(false);
  const seen = useRef({ top: NaN, since: 0 });
  const look = () => {
    const [top, now] = [card.current?.getBoundingClientRect().top ?? NaN, performance.now()];
    if (!(Math.abs(top - seen.current.top) < MOVED_PX)) seen.current = { top, since: now };
    return (is.value = now - seen.current.since >= INERT_MS);
  };
  useEffect(() => {
    if (!isAsked) return undefined;
    look();
    const timer = setInterval(look, LOOK_MS);
    return () => clearInterval(timer);
  }, [isAsked]);
  return { is, look };
}

function titleOf({ kind, input }: Asked): Key {
  if (kind === "question") return "question.question";
  if (input["command"] !== undefined) return "question.run";
  return input["new_string"] !== undefined || input["content"] !== undefined ? "question.edit" : "question.permission";
}

function Button(props: { label: "question.allow" | "question.always" | "question.deny"; hint: string; isMain?: boolean; onPress(): void }) {
  return (
    <button type="button" class={props.isMain ? "primary" : ""} onClick={props.onPress}>
      {t(props.label)} <kbd aria-hidden="true">{props.hint}</kbd>
    </button>
  );
}

function DenyForm({ onDeny, onBack }: { onDeny(message: string): void; onBack(): void }) {
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    onDeny(String(new FormData(event.currentTarget as HTMLFormElement).get("why")).trim());
  };
  const focus = (field: HTMLTextAreaElement | null) => field?.focus();
  return (
    <form onSubmit={submit}>
      <label>{t("question.denyWhy")}<textarea name="why" rows={2} ref={focus} /></label>
      <div class={styles["buttons"]}>
        <button type="submit" class="danger">{t("question.denyNow")}</button>
        <button type="button" onClick={onBack}>{t("question.back")}</button>
      </div>
    </form>
  );
}

function Times({ since, expires }: { since: string | null | undefined; expires: string | null | undefined }) {
  const now = useNow();
  if (!since) return null;
  return (
    <p class="quiet">
      {t("question.since", { when: ago(since, now) })}
      {expires && <> · {t("question.expires", { when: until(expires, now) })}</>}
    </p>
  );
}

/** What was said, and by which words it was asked. */
export function Answered({ asked, answer }: { asked: Asked; answer: Answer }) {
  const known = ["allow", "deny", "timed_out", "cancelled", "answer"] as const;
  const decision = asked.kind === "question" && answer.decision === "allow" ? "answer" : answer.decision;
  const word = known.find((one) => one === decision);
  return (
    <section class={styles["answered"]}>
      <strong>{word === undefined ? decision : t(`question.answered.${word}`)}</strong> {visible(asked.title)}
      {answer.chosen && <p>{visible(answer.chosen.join(", "))}</p>}
      {answer.message && <p class="quiet">{visible(answer.message)}</p>}
    </section>
  );
}

function explain(reason: unknown): string {
  const isLate = reason instanceof ApiError && reason.code === "permission_answered";
  return isLate ? t("question.elsewhere") : inWords(reason);
}
