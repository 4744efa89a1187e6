import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { Console } from "../model/console.ts";
import { type Choice, choices } from "../model/palette.ts";
import { t } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import { Icon } from "./Icon.tsx";
import { useModal } from "./modal.ts";
import styles from "./Palette.module.css";

/** Everything by its name: sessions, screens, what can be done. */
export function Palette({ page }: { page: Console }) {
  return page.overlay.value === "palette" ? <PaletteDialog page={page} /> : null;
}

/** A field with a list below it. */
const FIELD = { type: "search", role: "combobox", "aria-expanded": "true" } as object;

function PaletteDialog({ page }: { page: Console }) {
  const dialog = useModal();
  const words = useSignal("");
  const at = useSignal(0);
  const found = choices(page, words.value);
  const take = (choice: Choice | undefined) => {
    dialog.current?.close();
    choice?.run();
  };
  const onKey = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step !== undefined) at.value = (at.value + step + found.length) % Math.max(1, found.length);
    else if (event.key === "Enter" && !event.isComposing) take(found[at.value]);
    else return;
    event.preventDefault();
  };
  useEffect(() => document.getElementById(`choice-${at.value}`)?.scrollIntoView({ block: "nearest" }), [at.value]);
  return (
    <dialog ref={dialog} class={styles["dialog"]} aria-label={t("palette.title")} onClose={() => (page.overlay.value = null)}
      onClick={(event) => event.target === dialog.current && dialog.current?.close()}>
      <input {...FIELD} aria-controls="choices" aria-activedescendant={`choice-${at.value}`}
        aria-label={t("palette.title")} placeholder={t("palette.hint")} onKeyDown={onKey} autofocus
        onInput={(event: Event) => { words.value = (event.currentTarget as HTMLInputElement).value; at.value = 0; }} />
      <ul id="choices" role="listbox" aria-label={t("palette.title")} class={styles["choices"]}>
        {found.map((choice, index) => (
          <li key={choice.key} id={`choice-${index}`} role="option" aria-selected={index === at.value} onClick={() => take(choice)}>
            <Icon name={choice.icon} /><span>{visible(choice.name)}</span><span class="quiet">{visible(choice.about)}</span>
          </li>
        ))}
      </ul>
      {found.length === 0 && <p class="empty">{t("palette.nothing")}</p>}
    </dialog>
  );
}
