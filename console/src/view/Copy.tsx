import { useSignal } from "@preact/signals";
import { t } from "../i18n/index.ts";
import { Icon } from "./Icon.tsx";

const SHOWN_MS = 1500;

/** Puts a text into the clipboard; where the page may not (http in a local network), it is not there. */
export function Copy({ text, class: name }: { text: string; class?: string | undefined }) {
  const isDone = useSignal(false);
  if (!globalThis.isSecureContext) return null;
  const copy = () =>
    navigator.clipboard.writeText(text).then(() => {
      isDone.value = true;
      setTimeout(() => (isDone.value = false), SHOWN_MS);
    }, () => undefined);
  return (
    <button type="button" class={`icon-button ${name ?? ""}`} aria-label={t(isDone.value ? "copied" : "copy")} title={t("copy")}
      onClick={(event) => { event.preventDefault(); event.stopPropagation(); void copy(); }}>
      <Icon name={isDone.value ? "check" : "copy"} />
    </button>
  );
}
