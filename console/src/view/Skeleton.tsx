import { t } from "../i18n/index.ts";
import styles from "./Skeleton.module.css";

/** Something comes; it is shown only to who has waited for a moment. */
export function Skeleton() {
  return (
    <div class={styles["skeleton"]} role="status">
      <span class="hidden">{t("loading")}</span>
      <span class={styles["line"]} /><span class={styles["line"]} /><span class={styles["line"]} />
    </div>
  );
}
