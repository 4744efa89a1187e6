import { useSignal } from "@preact/signals";
import { t } from "../i18n/index.ts";
import { Icon } from "./Icon.tsx";

const SHOWN_MS = 1500;

/**
 * Puts a text into the clipboard. Where the page may not (http in a local network), it selects what it stands in: that
 * can be copied by hand.
 */
export function Copy({ text, class: name }: { text: string; class?: string | undefined }) {
  const isDone = useSignal(false);
  const word = globalThis.isSecureContext ? "copy" : "select";
  const copy = async (button: HTMLElement) => {
    if (word === "select") return getSelection()?.selectAllChildren(button.parentElement ?? button);
    await navigator.clipboard.writeText(text);
    isDone.value = true;
    setTimeout(() => (isDone.value = false), SHOWN_MS);
  };
  return (
    <button type="button" class={`icon-button ${name ?? ""}`} aria-label={t(isDone.value ? "copied" : word)} title={t(word)}
      onClick={(event) => { event.preventDefault(); event.stopPropagation(); void copy(event.currentTarget).catch(() => undefined); }}>
      <Icon name={isDone.value ? "check" : "copy"} />
    </button>
  );
}
