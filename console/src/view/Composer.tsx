import { useSignal } from "@preact/signals";
import { useMemo, useRef } from "preact/hooks";
import { ApiError } from "../api/http.ts";
import { Attempt } from "../model/attempt.ts";
import type { Console } from "../model/console.ts";
import type { Conversation } from "../model/conversation.ts";
import { imagesOf, together } from "../model/images.ts";
import { type Key } from "../i18n/en.ts";
import { plural, t } from "../i18n/index.ts";
import styles from "./Composer.module.css";
import { Icon } from "./Icon.tsx";
import { useMedia } from "./media.ts";
import { Attempted } from "./Problem.tsx";
import { QueueList } from "./QueueList.tsx";

export const MODES = ["ask", "accept_edits", "plan", "bypass"] as const;
const IME_KEY_CODE = 229;

/** Where a prompt is written. What was not taken stays, and sent again it starts nothing twice. */
export function Composer(props: { page: Console; conversation: Conversation; isBusy: boolean }) {
  const { page, conversation } = props;
  const draft = page.drafts.of(conversation.sessionId);
  const attempt = useMemo(() => new Attempt(), [conversation]);
  const mode = useSignal("");
  const effort = useSignal("");
  const busy = useSignal<"steer" | "queue">("steer");
  const refused = useSignal<string[]>([]);
  const session = page.session(conversation.sessionId);
  const isPhone = useMedia("(max-width: 480px)");
  const change = (what: { text?: string; images?: string[] }) => page.drafts.change(conversation.sessionId, what);

  const send = async (whenBusy: "steer" | "queue" | "reject") => {
    const { text, images, messageId } = draft.value;
    if (text.trim() === "" && images.length === 0) return;
    const optional = { agent: session?.agent, permission_mode: mode.value, effort: effort.value };
    const given = Object.fromEntries(Object.entries(optional).filter(([, value]) => value));
    const isSent = await attempt.run(() =>
      conversation.send({
        prompt: text, message_id: messageId, ...(images.length > 0 && { images }), if_busy: whenBusy,
        // The options of a turn that runs are what they are.
        ...(whenBusy === "steer" ? { agent: session?.agent ?? "" } : given),
      }),
    );
    if (isSent) page.drafts.sent(conversation.sessionId);
  };
  const submit = () => void send(props.isBusy ? busy.value : "reject");
  const add = async (files: Iterable<File>) => {
    const { images, others } = await imagesOf(files);
    refused.value = others;
    if (images.length > 0) change({ images: together(draft.value.images, images) });
  };
  const onKey = (event: KeyboardEvent) => {
    // While an input method composes, Enter is its own.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === IME_KEY_CODE) return;
    event.preventDefault();
    submit();
  };
  const reason = attempt.problem.value;
  const isRefusedAsBusy = reason instanceof ApiError && reason.code === "session_busy";
  return (
    <form class={styles["composer"]} onSubmit={(event) => { event.preventDefault(); submit(); }}
      onDragOver={(event) => event.preventDefault()}
      onDrop={(event) => { event.preventDefault(); void add(event.dataTransfer?.files ?? []); }}>
      {(session?.queued ?? 0) > 0 && <QueueList page={page} sessionId={conversation.sessionId} count={session?.queued ?? 0} />}
      <Attempted attempt={attempt} {...(!isRefusedAsBusy && { onRetry: submit })}>
        {isRefusedAsBusy && (
          <>
            <button type="button" class="primary" onClick={() => void send("steer")}>{t("composer.busy.steer")}</button>
            <button type="button" onClick={() => void send("queue")}>{t("composer.busy.queue")}</button>
          </>
        )}
      </Attempted>
      <div class={styles["box"]}>
        <Thumbnails images={draft.value.images} refused={refused.value} onRemove={(images) => change({ images })} />
        <textarea id="composer" dir="auto" aria-label={t("composer.message")} rows={2} value={draft.value.text} onKeyDown={onKey}
          placeholder={t(props.isBusy ? "composer.steer" : isPhone ? "composer.placeholderShort" : "composer.placeholder")}
          onPaste={(event) => void add(event.clipboardData?.files ?? [])}
          onInput={(event) => change({ text: event.currentTarget.value })} />
        <div class={styles["bar"]}>
          <Attach onFiles={(files) => void add(files)} />
          {props.isBusy ? (
            <Choice label="composer.whenBusy" value={busy.value} onChange={(value) => (busy.value = value as "steer" | "queue")}
              options={[["steer", t("composer.busy.steer")], ["queue", t("composer.busy.queue")]]} />
          ) : (
            <>
              <Choice label="composer.mode" value={mode.value} onChange={(value) => (mode.value = value)}
                options={[["", t(modeKey(session?.permissionMode))], ...MODES.map((one) => [one, t(`mode.${one}`)] as const)]} />
              <EffortChoice page={page} agent={session?.agent} model={session?.model} value={effort.value}
                onChange={(value) => (effort.value = value)} />
            </>
          )}
          <button class={`primary ${styles["send"]}`} type="submit" disabled={attempt.isBusy.value || page.isFull.value}>
            {t("composer.send")}
          </button>
        </div>
      </div>
    </form>
  );
}

/** What a prompt that names no mode gets. */
function modeKey(mode: string | null | undefined): Key {
  const known = MODES.find((one) => one === mode);
  return known === undefined ? "mode.own" : `mode.${known}`;
}

interface ChoiceProps {
  label: Key;
  value: string;
  options: readonly (readonly [string, string])[];
  onChange(value: string): void;
}

/** A select that reads as a word until somebody wants to change it. */
export function Choice({ label, value, options, onChange }: ChoiceProps) {
  return (
    <select class={styles["choice"]} aria-label={t(label)} title={t(label)} value={value}
      onChange={(event) => onChange(event.currentTarget.value)}>
      {options.map(([name, words]) => <option value={name}>{words}</option>)}
    </select>
  );
}

function EffortChoice(props: { page: Console; agent: string | undefined; model: string | null | undefined; value: string; onChange(value: string): void }) {
  const agent = props.page.agents.value?.find((one) => one.name === props.agent);
  const efforts = agent?.modelEfforts[props.model ?? ""] ?? agent?.efforts ?? [];
  if (efforts.length === 0) return null;
  const options = [["", t("composer.effortOwn")] as const, ...efforts.map((one) => [one, one] as const)];
  return <Choice label="composer.effort" value={props.value} options={options} onChange={props.onChange} />;
}

function Attach({ onFiles }: { onFiles(files: Iterable<File>): void }) {
  const input = useRef<HTMLInputElement>(null);
  return (
    <>
      <button type="button" class={styles["attach"]} aria-label={t("composer.attach")} title={t("composer.attach")}
        onClick={() => input.current?.click()}>
        <Icon name="clip" />
      </button>
      <input ref={input} type="file" accept="image/png,image/jpeg,image/gif,image/webp" multiple hidden
        onChange={(event) => { onFiles([...(event.currentTarget.files ?? [])]); event.currentTarget.value = ""; }} />
    </>
  );
}

/** The pictures of a prompt, and which of the files are none. */
export function Thumbnails({ images, refused, onRemove }: { images: string[]; refused: string[]; onRemove(left: string[]): void }) {
  return (
    <>
      <p role="status" class={styles["refused"]} dir="auto">
        {refused.length > 0 && t("composer.noPicture", { names: refused.join(", ") })}
      </p>
      {images.length > 0 && (
        <ul class={styles["images"]} aria-label={plural("composer.images", images.length)}>
          {images.map((url, index) => (
            <li key={url}>
              <img src={url} alt={t("composer.image", { number: index + 1 })} />
              <button type="button" aria-label={t("composer.removeImage", { number: index + 1 })}
                onClick={() => onRemove(images.filter((one) => one !== url))}>×</button>
            </li>
          ))}
        </ul>
      )}
    </>
  );
}
