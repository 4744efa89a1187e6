import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { Console } from "../model/console.ts";
import { t } from "../i18n/index.ts";
import styles from "./Banners.module.css";

/** A short break is nobody's business. */
const LOST_MS = 2000;

/** What concerns the whole page: the server is away, its disk is full, the page is older than the server. */
export function Banners({ page }: { page: Console }) {
  const isLost = useLate(!page.isConnected.value, LOST_MS);
  return (
    <div class={styles["banners"]} role="status">
      {isLost && <p class={styles["lost"]}>{t("connection.lost")}</p>}
      {page.isFull.value && <p>{t("banner.full")}</p>}
      {page.keepsNothing.value && <p>{t("login.memory")}</p>}
      {page.isOutdated.value && (
        <p>{t("banner.outdated")} <button type="button" onClick={() => location.reload()}>{t("banner.reload")}</button></p>
      )}
      {page.preferences.value.isListHidden && (
        <button type="button" class={styles["list"]} onClick={() => page.prefer({ isListHidden: false })}>{t("nav.showList")}</button>
      )}
    </div>
  );
}

/** True once `fact` has been true for so long. */
export function useLate(fact: boolean, ms: number): boolean {
  const isLate = useSignal(false);
  useEffect(() => {
    if (!fact) return void (isLate.value = false);
    const timer = setTimeout(() => (isLate.value = true), ms);
    return () => clearTimeout(timer);
  }, [fact]);
  return fact && isLate.value;
}
