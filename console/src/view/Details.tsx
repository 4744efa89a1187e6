import { useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { ApiError, segment } from "../api/http.ts";
import type { Session } from "../api/types.ts";
import { Attempt } from "../model/attempt.ts";
import type { Console } from "../model/console.ts";
import type { Conversation } from "../model/conversation.ts";
import { newId } from "../model/ids.ts";
import { sessionHash } from "../model/route.ts";
import { date, dollars, t } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import { Choice, MODES } from "./Composer.tsx";
import { Copy } from "./Copy.tsx";
import { Kept } from "./Kept.tsx";
import styles from "./pages.module.css";
import { Attempted } from "./Problem.tsx";

interface Props {
  page: Console;
  session: Session;
  conversation: Conversation;
}

/** What a session is, what it may do, and what can be done with it. */
export function Details({ page, session, conversation }: Props) {
  return (
    <div class={styles["page"]}>
      <Facts session={session} conversation={conversation} />
      <Changeable page={page} session={session} />
      <Kept page={page} session={session} turnsEnded={conversation.turnsEnded.value} />
      {session.worktree && <Merge page={page} session={session} />}
      <Actions page={page} session={session} />
    </div>
  );
}

function Facts({ session, conversation }: { session: Session; conversation: Conversation }) {
  const facts: [string, string | 0 | null | undefined][] = [
    [t("details.id"), session.id],
    [t("new.agent"), session.agent],
    [t("new.cwd"), session.cwd],
    [t("details.worktree"), session.worktree],
    [t("details.created"), session.createdAt && date(session.createdAt)],
    [t("details.forkedFrom"), session.forkedFrom?.sessionId],
    [t("details.turns"), String(conversation.jobs.value.size)],
    [t("details.cost"), session.costUsd && dollars(session.costUsd)],
  ];
  return (
    <dl class={styles["facts"]}>
      {facts.filter(([, value]) => value).map(([name, value]) => (
        <><dt>{name}</dt><dd>{visible(String(value))}{(value === session.id || value === session.cwd) && <Copy text={value} />}</dd></>
      ))}
    </dl>
  );
}

function Changeable({ page, session }: { page: Console; session: Session }) {
  const attempt = useMemo(() => new Attempt(), [session.id]);
  const change = (what: object) => void attempt.run(() => page.api.put(`sessions/${segment(session.id)}`, what));
  const agent = page.agents.value?.find((one) => one.name === session.agent);
  const models = [...new Set([...(session.model ? [session.model] : []), ...(agent?.models ?? [])])];
  return (
    <section class={styles["group"]} aria-label={t("details.settings")}>
      <label>{t("details.name")}
        <input defaultValue={session.name ?? ""} onChange={(event) => change({ name: event.currentTarget.value.trim() })} />
      </label>
      <div class={styles["fields"]}>
        {models.length > 0 && (
          <label>{t("new.model")}
            <select value={session.model ?? ""} onChange={(event) => event.currentTarget.value && change({ model: event.currentTarget.value })}>
              {!session.model && <option value="">{t("new.modelDefault")}</option>}
              {models.map((model) => <option value={model}>{model}</option>)}
            </select>
          </label>
        )}
        <label>{t("composer.mode")}
          <select value={session.permissionMode ?? ""} onChange={(event) => change({ permission_mode: event.currentTarget.value || null })}>
            <option value="">{t("mode.default")}</option>
            {MODES.map((mode) => <option value={mode}>{t(`mode.${mode}`)}</option>)}
          </select>
        </label>
      </div>
      <Attempted attempt={attempt} />
    </section>
  );
}

const WAYS = ["merge", "squash", "rebase"] as const;

/** Bring what the session has done in its worktree to the branch that it began from. */
function Merge({ page, session }: { page: Console; session: Session }) {
  const attempt = useMemo(() => new Attempt(), [session.id]);
  const how = useSignal<string>("merge");
  const into = useSignal("");
  const merge = () =>
    attempt.run(async () => {
      into.value = "";
      const path = `sessions/${segment(session.id)}/merge`;
      into.value = (await page.api.post<{ into: string }>(path, { how: how.value })).into;
    });
  return (
    <section class={styles["group"]} aria-label={t("merge.title")}>
      <div class={styles["inline"]}>
        <Choice label="merge.how" value={how.value} onChange={(value) => (how.value = value)}
          options={WAYS.map((way) => [way, t(`merge.${way}`)] as const)} />
        <button type="button" disabled={attempt.isBusy.value} onClick={() => void merge()}>{t("merge.title")}</button>
      </div>
      {into.value !== "" && <p role="status">{t("merge.done", { branch: visible(into.value) })}</p>}
      <Attempted attempt={attempt} />
    </section>
  );
}

function Actions({ page, session }: { page: Console; session: Session }) {
  const attempt = useMemo(() => new Attempt(), [session.id]);
  const path = `sessions/${segment(session.id)}`;
  const archive = () => void attempt.run(() => page.api.put(path, { archived: !session.archivedAt }));
  const fork = () => {
    const id = newId();
    void attempt.run(() => page.api.post(`${path}/fork`, { sessionId: id })).then((isDone) => isDone && (location.hash = sessionHash(id)));
  };
  const remove = async (query: Record<string, boolean | string>) => {
    if (await attempt.run(() => page.api.delete(path, query))) location.hash = "#/sessions";
  };
  const ask = () => {
    if (confirm(t(session.worktree ? "details.deleteWorktree" : "details.deleteSure")))
      void remove(session.worktree ? { worktree: "remove" } : {});
  };
  const reason = attempt.problem.value;
  const loses = reason instanceof ApiError && (reason.code === "worktree_has_changes" || reason.code === "session_busy");
  return (
    <section class={styles["group"]} aria-label={t("details.actions")}>
      <div class={styles["inline"]}>
        <button type="button" onClick={fork}>{t("details.fork")}</button>
        <button type="button" onClick={archive}>{t(session.archivedAt ? "details.unarchive" : "details.archive")}</button>
        <button type="button" class="danger" onClick={ask}>{t("details.delete")}</button>
      </div>
      <Attempted attempt={attempt}>
        {loses && (
          <button type="button" class="danger"
            onClick={() => void remove({ force: true, ...(session.worktree && { worktree: "remove" }) })}>{t("details.force")}</button>
        )}
      </Attempted>
    </section>
  );
}
