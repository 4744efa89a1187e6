import { useEffect } from "preact/hooks";
import type { Console } from "../model/console.ts";
import type { Router } from "../model/route.ts";
import { type Key } from "../i18n/en.ts";
import { t } from "../i18n/index.ts";
import styles from "./Keys.module.css";
import { useModal } from "./modal.ts";

/** A second letter has to come so soon. */
const SEQUENCE_MS = 1200;
const PLACES: Record<string, string> = { i: "#/inbox", s: "#/sessions", t: "#/terminals", u: "#/usage" };
const LIST: [string, Key][] = [
  ["Ctrl K", "keys.everything"], ["G I", "keys.inbox"], ["G S", "keys.sessions"], ["G T", "keys.terminals"], ["G U", "keys.usage"], ["N", "keys.new"],
  ["J", "keys.next"], ["K", "keys.previous"], ["/", "keys.find"], ["I", "keys.composer"], ["Y A D", "keys.answer"],
  ["Esc", "keys.back"], ["?", "keys.list"],
];

/** Keys of the whole page. Single letters count only where nobody writes, and can be switched off. */
export function Keys({ page, router }: { page: Console; router: Router }) {
  useEffect(() => {
    let leader = -Infinity;
    const onKey = (event: KeyboardEvent) => {
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
        event.preventDefault();
        page.overlay.value = "palette";
      } else if (event.key === "Escape" && !event.defaultPrevented) escape(router, event);
      else if (isCommand(event) && page.preferences.value.hasKeys && page.overlay.value === null) {
        const isSecond = event.timeStamp - leader < SEQUENCE_MS;
        leader = event.key === "g" ? event.timeStamp : -Infinity;
        if (command(page, router, event.key, isSecond)) event.preventDefault();
      }
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  return page.overlay.value === "keys" ? <KeysDialog page={page} /> : null;
}

/** Whether a key is meant for the page, and not for a field, a card or a terminal. */
function isCommand(event: KeyboardEvent): boolean {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return false;
  const target = event.target as HTMLElement;
  return !target.closest("input, textarea, select, dialog, [contenteditable], .xterm");
}

function escape(router: Router, event: KeyboardEvent): void {
  const target = event.target as HTMLElement;
  if (target.closest("dialog, .xterm")) return;
  if (target.closest("input, textarea, select")) return target.blur();
  const route = router.route.value;
  if (route.view !== "session") location.hash = "#/sessions";
  else location.hash = route.tab === "chat" ? "#/sessions" : `#/s/${encodeURIComponent(route.id)}`;
}

/** True when the key was one. */
function command(page: Console, router: Router, key: string, isSecond: boolean): boolean {
  const route = router.route.value;
  const conversation = route.view === "session" ? page.conversation(route.id) : null;
  if (isSecond && PLACES[key] !== undefined) location.hash = PLACES[key];
  else if (key === "n") location.hash = "#/new";
  else if (key === "?") page.overlay.value = "keys";
  else if (key === "i") document.getElementById("composer")?.focus();
  else if (key === "/" && conversation) conversation.isFinding.value = true;
  else if (key === "/") document.querySelector<HTMLElement>("input[type=search]")?.focus();
  else if ((key === "j" || key === "k") && conversation) conversation.goToTurn(key === "j" ? 1 : -1);
  else return false;
  return true;
}

function KeysDialog({ page }: { page: Console }) {
  const dialog = useModal();
  return (
    <dialog ref={dialog} class={styles["dialog"]} aria-labelledby="keys" onClose={() => (page.overlay.value = null)}
      onClick={(event) => event.target === dialog.current && dialog.current?.close()}>
      <h2 id="keys">{t("keys.title")}</h2>
      <dl class={styles["keys"]}>
        {LIST.map(([keys, what]) => (
          <><dt>{keys.split(" ").map((one) => <kbd>{one}</kbd>)}</dt><dd>{t(what)}</dd></>
        ))}
      </dl>
      <button type="button" onClick={() => dialog.current?.close()}>{t("close")}</button>
    </dialog>
  );
}
