/** What can be reached by its name. */

import { t } from "../i18n/index.ts";
import type { Console } from "./console.ts";
import { isDark } from "./preferences.ts";
import { sessionHash } from "./route.ts";
import { placeOf } from "./sessions.ts";

export interface Choice {
  key: string;
  name: string;
  about: string;
  /** By what it is found besides. */
  hidden: string;
  icon: string;
  run(): void;
}

const MAX_SESSIONS = 50;

/** Those whose words are all there: screens and commands first while little is written, then sessions, the newest first. */
export function choices(page: Console, words: string): Choice[] {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (choice: Choice) => wanted.every((word) => `${choice.name} ${choice.about} ${choice.hidden}`.toLowerCase().includes(word));
  const sessions = [...page.sessions.value]
    .sort((a, b) => b.updatedAt.localeCompare(a.updatedAt))
    .map((session) => go(session.name || session.preview || session.id, "list", sessionHash(session.id), placeOf(session), session.cwd))
    .filter(fits)
    .slice(0, MAX_SESSIONS);
  return [...commands(page).filter(fits), ...sessions];
}

function commands(page: Console): Choice[] {
  const theme = isDark(page.preferences.value) ? "light" : "dark";
  return [
    go(t("nav.new"), "plus", "#/new", "N"),
    go(t("nav.inbox"), "inbox", "#/inbox", "G I"),
    go(t("nav.terminals"), "terminal", "#/terminals", "G T"),
    go(t("nav.usage"), "usage", "#/usage", "G U"),
    go(t("nav.settings"), "settings", "#/settings"),
    { key: "theme", name: t(`palette.theme.${theme}`), about: "", hidden: "", icon: "settings", run: () => page.prefer({ theme }) },
    { key: "keys", name: t("keys.title"), about: "?", hidden: "", icon: "more", run: () => (page.overlay.value = "keys") },
  ];
}

function go(name: string, icon: string, hash: string, about = "", hidden = ""): Choice {
  return { key: hash, name, about, hidden, icon, run: () => (location.hash = hash) };
}
