import type { Status } from "../model/sessions.ts";
import { t } from "../i18n/index.ts";
import styles from "./StatusMark.module.css";

/** A state by shape, colour and word; the word is for those who do not see the others. */
export function StatusMark({ status }: { status: Status }) {
  return (
    <span class={styles["mark"]} data-status={status}>
      <span class="hidden">{t(`status.${status}`)}</span>
    </span>
  );
}
