import { ApiError, type Problem as Detail, Unreachable } from "../api/http.ts";
import type { Attempt } from "../model/attempt.ts";
import { plural, t } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import { Copy } from "./Copy.tsx";
import styles from "./Problem.module.css";

/** What was refused and why, what to do, and the id that finds it in the server's log. */
export function Problem(props: { reason: unknown; onRetry?: (() => void) | undefined; children?: preact.ComponentChildren }) {
  const { reason, onRetry } = props;
  if (reason === null || reason === undefined) return null;
  const details = reason instanceof ApiError ? reason.details : [];
  const request = reason instanceof ApiError ? reason.requestId : null;
  return (
    <div class={styles["problem"]} role="alert">
      <p>{explain(reason)}</p>
      {details.length > 0 && <ul>{details.map((detail) => <li>{detailText(detail)}</li>)}</ul>}
      {request !== null && <p class={styles["request"]}>{t("error.request")} <code>{request}</code> <Copy text={request} /></p>}
      {(onRetry || props.children) && (
        <div class={styles["buttons"]}>
          {props.children}
          {onRetry && <button type="button" onClick={onRetry}>{t("error.retry")}</button>}
        </div>
      )}
    </div>
  );
}

/** The problem of an attempt; while it counts down to the next try, how long that is. */
export function Attempted(props: { attempt: Attempt; onRetry?: () => void; children?: preact.ComponentChildren }) {
  const { attempt } = props;
  const left = attempt.retryInS.value;
  if (left === null) return <Problem reason={attempt.problem.value} onRetry={props.onRetry}>{props.children}</Problem>;
  return (
    <Problem reason={attempt.problem.value}>
      <span aria-hidden="true">{plural("error.again", left)}</span>
      <button type="button" onClick={() => attempt.stop()}>{t("cancel")}</button>
    </Problem>
  );
}

/** In words for who can mend it. */
export function explain(reason: unknown): string {
  if (reason instanceof Unreachable) return t("error.away");
  if (!(reason instanceof ApiError)) return t("error.chunk");
  switch (reason.code) {
    case "host_not_allowed":
      return `${t("error.host")} ${reason.message}`;
    case "origin_not_allowed":
      return `${t("error.origin")} ${reason.message}`;
    case "storage_full":
      return t("error.full");
    case "not_a_repository":
      return t("changes.noRepository");
    case "scope_missing":
      return `${t("error.scope")} ${reason.message}`;
    default:
      return visible(reason.message);
  }
}

function detailText(detail: Detail | string): string {
  return typeof detail === "string" ? visible(detail) : visible(`${detail.path}: ${detail.message}`);
}
