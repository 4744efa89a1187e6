import { type Signal, useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { segment } from "../api/http.ts";
import type { Session } from "../api/types.ts";
import { Attempt } from "../model/attempt.ts";
import type { Console } from "../model/console.ts";
import { groups, placeOf, statusOf, type Group } from "../model/sessions.ts";
import { sessionHash } from "../model/route.ts";
import { ago, dayOf, dollars, plural, t } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import { useNow } from "./now.ts";
import styles from "./SessionList.module.css";
import { Icon } from "./Icon.tsx";
import { Attempted } from "./Problem.tsx";
import { Skeleton } from "./Skeleton.tsx";
import { StatusMark } from "./StatusMark.tsx";

type Chosen = Signal<ReadonlySet<string> | null>;

export function SessionList({ page, current }: { page: Console; current: string | null }) {
  const filter = useSignal("");
  const isArchive = useSignal(false);
  const chosen: Chosen = useSignal<ReadonlySet<string> | null>(null);
  const sessions = page.sessions.value.filter((session) => Boolean(session.archivedAt) === isArchive.value);
  const found = groups(sessions, page.waiting.value, filter.value);
  return (
    <section class={styles["list"]} aria-label={t("nav.sessions")}>
      <div class={styles["tools"]}>
        <input class={styles["filter"]} type="search" placeholder={t("sessions.filter")} aria-label={t("sessions.filter")}
          onInput={(event) => (filter.value = event.currentTarget.value)} />
        <Toggle icon="archive" label="sessions.archived" isOn={isArchive.value} onPress={() => (isArchive.value = !isArchive.value)} />
        <Toggle icon="check" label="sessions.choose" isOn={chosen.value !== null}
          onPress={() => (chosen.value = chosen.value === null ? new Set() : null)} />
      </div>
      {chosen.value !== null && <Bulk page={page} chosen={chosen} sessions={found.flatMap((group) => group.sessions)} isArchive={isArchive.value} />}
      <div class={styles["groups"]}>
        {!page.hasSnapshot.value && <Skeleton />}
        {found.map((group) => <GroupOf key={group.key} group={group} page={page} current={current} chosen={chosen} />)}
        {page.hasSnapshot.value && found.length === 0 && (
          <Nothing isFiltered={filter.value !== ""} isArchive={isArchive.value} />
        )}
      </div>
    </section>
  );
}

function Nothing({ isFiltered, isArchive }: { isFiltered: boolean; isArchive: boolean }) {
  if (isFiltered || isArchive) return <p class="empty">{t(isFiltered ? "sessions.nothing" : "sessions.noArchived")}</p>;
  return <div class="empty"><p>{t("sessions.empty")}</p><a href="#/new">{t("sessions.first")}</a></div>;
}

function Toggle(props: { icon: string; label: "sessions.archived" | "sessions.choose"; isOn: boolean; onPress(): void }) {
  return (
    <button type="button" class="icon-button" aria-pressed={props.isOn} aria-label={t(props.label)} title={t(props.label)}
      onClick={props.onPress}><Icon name={props.icon} /></button>
  );
}

/** Puts away, or takes back, all that were chosen. */
function Bulk(props: { page: Console; chosen: Chosen; sessions: readonly Session[]; isArchive: boolean }) {
  const { page, chosen } = props;
  const attempt = useMemo(() => new Attempt(), []);
  const ids = [...(chosen.value ?? [])];
  const move = async () => {
    const put = () => Promise.all(ids.map((id) => page.api.put(`sessions/${segment(id)}`, { archived: !props.isArchive })));
    if (await attempt.run(put)) chosen.value = null;
  };
  return (
    <div class={styles["bulk"]}>
      <button type="button" onClick={() => (chosen.value = new Set(props.sessions.map((session) => session.id)))}>{t("sessions.all")}</button>
      <button type="button" disabled={ids.length === 0 || attempt.isBusy.value} onClick={() => void move()}>
        {plural(props.isArchive ? "sessions.unarchive" : "sessions.archive", ids.length)}
      </button>
      <Attempted attempt={attempt} />
    </div>
  );
}

function GroupOf({ group, page, current, chosen }: { group: Group; page: Console; current: string | null; chosen: Chosen }) {
  return (
    <>
      <h2 class={styles["heading"]}>{group.day === undefined ? t(`sessions.${group.key}`) : dayOf(group.day)}</h2>
      <ul class={styles["rows"]}>
        {group.sessions.map((session) => (
          <li key={session.id} class={styles["item"]}>
            {chosen.value !== null && <Check id={session.id} name={nameOf(session)} chosen={chosen} />}
            <Row session={session} page={page} current={current} />
          </li>
        ))}
      </ul>
    </>
  );
}

function Check({ id, name, chosen }: { id: string; name: string; chosen: Chosen }) {
  const toggle = () => {
    const ids = new Set(chosen.value);
    if (!ids.delete(id)) ids.add(id);
    chosen.value = ids;
  };
  return <input type="checkbox" aria-label={visible(name)} checked={chosen.value?.has(id) ?? false} onChange={toggle} />;
}

function Row({ session, page, current }: { session: Session; page: Console; current: string | null }) {
  const asked = page.questions.value.find((question) => question.sessionId === session.id);
  const status = statusOf(session, page.waiting.value);
  return (
    <a class={styles["row"]} href={sessionHash(session.id)} data-status={status} aria-current={session.id === current ? "page" : undefined}>
      <StatusMark status={status} />
      <span class={styles["name"]}>{visible(nameOf(session))}</span>
      <When iso={session.updatedAt} />
      <span class={styles["doing"]}>{visible(asked === undefined ? secondLine(session, status) : t("sessions.asks", { title: asked.title }))}</span>
    </a>
  );
}

function When({ iso }: { iso: string }) {
  return <time class={styles["when"]} dateTime={iso}>{ago(iso, useNow(), "narrow")}</time>;
}

export function nameOf(session: Session): string {
  return session.name || session.preview || session.id;
}

/** What tells most about a session now: what it does, why it failed, where it works. */
function secondLine(session: Session, status: string): string {
  if (session.doing) return session.doing;
  if (status === "failed" && session.lastJob?.error) return session.lastJob.error;
  return [placeOf(session), session.costUsd ? dollars(session.costUsd) : "", session.agent].filter(Boolean).join(" · ");
}
