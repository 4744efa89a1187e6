import type { Console } from "../model/console.ts";
import { t } from "../i18n/index.ts";
import { NavLink } from "./App.tsx";
import { Icon } from "./Icon.tsx";
import styles from "./pages.module.css";

/** What a phone's bar has no room for. */
export function More({ page }: { page: Console }) {
  return (
    <div class={styles["page"]}>
      <h1>{t("nav.more")}</h1>
      <nav class={styles["links"]} aria-label={t("nav.more")}>
        <NavLink to="usage" icon="usage" current="more" />
        <NavLink to="settings" icon="settings" current="more" />
        <button type="button" onClick={() => page.signOut()}><Icon name="out" />{t("login.out")}</button>
      </nav>
    </div>
  );
}
