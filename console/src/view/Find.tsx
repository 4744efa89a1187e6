import { useSignal } from "@preact/signals";
import type { Conversation } from "../model/conversation.ts";
import { matching } from "../model/find.ts";
import { t } from "../i18n/index.ts";
import styles from "./Find.module.css";
import { Icon } from "./Icon.tsx";

/** Find words in a conversation, as far as it has been loaded; the browser's own search sees only what is near. */
export function Find({ conversation }: { conversation: Conversation }) {
  const words = useSignal("");
  const at = useSignal(-1);
  conversation.version.value;
  const found = matching(conversation.transcript.rows, words.value);
  /** The last place first: it is what somebody has just read. */
  const look = (text: string) => {
    const places = matching(conversation.transcript.rows, text);
    words.value = text;
    at.value = places.length - 1;
    conversation.goTo(places.at(-1));
  };
  const go = (step: number) => {
    if (found.length === 0) return;
    at.value = (at.value + step + found.length) % found.length;
    conversation.goTo(found[at.value]);
  };
  const close = () => (conversation.isFinding.value = false);
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "Enter") go(event.shiftKey ? 1 : -1);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
  };
  return (
    <div class={styles["find"]} role="search">
      <input type="search" aria-label={t("find.title")} placeholder={t("find.title")} ref={(field) => field?.focus()}
        onInput={(event) => look(event.currentTarget.value)} onKeyDown={onKey} />
      <span class="quiet" role="status">{words.value === "" ? "" : t("find.count", { at: Math.min(at.value, found.length - 1) + 1, all: found.length })}</span>
      <button type="button" class="icon-button" aria-label={t("find.previous")} onClick={() => go(-1)}><Icon name="up" /></button>
      <button type="button" class="icon-button" aria-label={t("find.next")} onClick={() => go(1)}><Icon name="down" /></button>
      <button type="button" class="icon-button" aria-label={t("close")} onClick={close}><Icon name="close" /></button>
    </div>
  );
}
