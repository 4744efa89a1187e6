import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useMemo } from "preact/hooks";
import type { ApiError } from "../api/http.ts";
import { Attempt } from "../model/attempt.ts";
import type { Console } from "../model/console.ts";
import type { Conversation } from "../model/conversation.ts";
import { type SessionRoute, sessionHash, type Tab, TABS } from "../model/route.ts";
import { statusOf } from "../model/sessions.ts";
import { t } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import styles from "./SessionView.module.css";
import { Changes } from "./Changes.tsx";
import { Composer } from "./Composer.tsx";
import { Details } from "./Details.tsx";
import { Feed } from "./Feed.tsx";
import { Files } from "./Files.tsx";
import { Find } from "./Find.tsx";
import { Icon } from "./Icon.tsx";
import { SessionContext } from "./PathLink.tsx";
import { Attempted, Problem } from "./Problem.tsx";
import { StatusMark } from "./StatusMark.tsx";
import { SessionTerminal } from "./SessionTerminal.tsx";
import { useMedia } from "./media.ts";

const WIDE = "(min-width: 1280px)";

interface Props {
  page: Console;
  route: SessionRoute;
}

/** One session: the conversation, and beside it (on a phone in its place) what else there is to see. */
export function SessionView({ page, route }: Props) {
  const { id, tab } = route;
  const conversation = useMemo(() => page.conversation(id), [id]);
  const isWide = useMedia(WIDE);
  // Before anything is painted: what it asks for is on its way meanwhile.
  useLayoutEffect(() => {
    conversation.open();
    return () => conversation.close();
  }, [conversation]);
  const isLoaded = conversation.isLoaded.value;
  // What agents there are takes the server a moment; the conversation comes first.
  useEffect(() => {
    if (isLoaded && page.agents.peek() === null) void page.loadAgents().catch(() => undefined);
  }, [isLoaded]);
  const cwd = page.session(id)?.cwd ?? "";
  const place = useMemo(() => ({ id, cwd }), [id, cwd]);
  const error = conversation.error.value;
  const hasChat = isWide || tab === "chat";
  return (
    <SessionContext.Provider value={place}>
      <div class={styles["session"]}>
        <Head page={page} conversation={conversation} />
        {error === null && <Tabs id={id} current={tab} isWide={isWide} />}
        {error !== null ? <Gone error={error} /> : (
          <div class={styles["panes"]}>
            {hasChat && <Chat page={page} conversation={conversation} />}
            {isWide && tab !== "chat" && <Splitter page={page} />}
            {tab !== "chat" && <Panel page={page} conversation={conversation} route={route} isWide={isWide} />}
          </div>
        )}
        <Announcer conversation={conversation} />
      </div>
    </SessionContext.Provider>
  );
}

function Chat({ page, conversation }: { page: Console; conversation: Conversation }) {
  return (
    <div class={styles["chat"]}>
      {conversation.isFinding.value && <Find conversation={conversation} />}
      <Feed page={page} conversation={conversation} />
      <div class={styles["foot"]}>
        <Composer page={page} conversation={conversation} isBusy={isBusy(page, conversation)} />
      </div>
    </div>
  );
}

function Panel({ page, conversation, route, isWide }: Props & { conversation: Conversation; isWide: boolean }) {
  const session = page.session(route.id);
  const style = isWide ? { width: `${page.preferences.value.panelWidth}px` } : {};
  return (
    <section class={styles["panel"]} style={style} aria-label={t(`tab.${route.tab}`)}>
      {session === undefined ? <p class="empty">{t("loading")}</p> : (
        <>
          {route.tab === "changes" && <Changes page={page} session={session} conversation={conversation} />}
          {route.tab === "files" && <Files page={page} session={session} path={route.path} line={route.line} />}
          {route.tab === "terminal" && <SessionTerminal page={page} session={session} />}
          {route.tab === "details" && <Details page={page} session={session} conversation={conversation} />}
        </>
      )}
    </section>
  );
}

const MIN_PX = 320;
const STEP_PX = 40;

/** Between the conversation and what is beside it: moved by mouse, finger or arrow keys. */
function Splitter({ page }: { page: Console }) {
  const width = page.preferences.value.panelWidth;
  const set = (px: number) => page.prefer({ panelWidth: Math.round(Math.max(MIN_PX, Math.min(px, innerWidth - 2 * MIN_PX))) });
  const drag = (event: PointerEvent) => {
    const bar = event.currentTarget as HTMLElement;
    if (bar.hasPointerCapture(event.pointerId)) set(innerWidth - event.clientX);
  };
  const keys: Record<string, number> = { ArrowLeft: STEP_PX, ArrowRight: -STEP_PX };
  return (
    <div class={styles["splitter"]} role="separator" tabIndex={0} aria-orientation="vertical" aria-label={t("panel.resize")}
      aria-valuenow={width} aria-valuemin={MIN_PX} aria-valuemax={innerWidth - 2 * MIN_PX}
      onPointerDown={(event) => (event.currentTarget as HTMLElement).setPointerCapture(event.pointerId)}
      onPointerMove={drag} onKeyDown={(event) => set(width + (keys[event.key] ?? 0))} />
  );
}

/** Beside an open panel its tab closes it again. */
function Tabs({ id, current, isWide }: { id: string; current: Tab; isWide: boolean }) {
  const tabs = TABS.filter((tab) => !isWide || tab !== "chat");
  return (
    <nav class={styles["tabs"]} aria-label={t("chat.tabs")}>
      {tabs.map((tab) => (
        <a href={sessionHash(id, isWide && tab === current ? "chat" : tab)} aria-current={tab === current ? "page" : undefined}>
          {t(`tab.${tab}`)}
        </a>
      ))}
    </nav>
  );
}

function Gone({ error }: { error: ApiError }) {
  if (error.status !== 404) return <div class={styles["gone"]}><Problem reason={error} onRetry={() => location.reload()} /></div>;
  return <div class="empty" role="alert"><p>{t("chat.gone")}</p><p><a href="#/sessions">{t("chat.toList")}</a></p></div>;
}

function isBusy(page: Console, conversation: Conversation): boolean {
  const session = page.session(conversation.sessionId);
  const status = session === undefined ? "idle" : statusOf(session, page.waiting.value);
  return status === "running" || status === "waiting";
}

function Head({ page, conversation }: { page: Console; conversation: Conversation }) {
  const stopping = useMemo(() => new Attempt(), [conversation]);
  conversation.version.value;
  const session = page.session(conversation.sessionId);
  const { title, usage } = conversation.transcript;
  const status = session === undefined ? "idle" : statusOf(session, page.waiting.value);
  const name = session?.name || title || session?.preview || conversation.sessionId;
  return (
    <>
      <header class={styles["head"]}>
        <a class={styles["back"]} href="#/sessions" aria-label={t("back")}><Icon name="back" /></a>
        <Name page={page} id={conversation.sessionId} name={name} />
        {session && <span class={styles["status"]}><StatusMark status={status} /><span aria-hidden="true">{t(`status.${status}`)}</span></span>}
        {session && <span class={styles["chip"]}>{session.agent}{session.model && <> · {session.model}</>}</span>}
        {usage && usage.size > 0 && (
          <span class={styles["chip"]} title={t("chat.context")}>{Math.round((100 * usage.used) / usage.size)} %</span>
        )}
        {isBusy(page, conversation) && (
          <button type="button" class="danger" disabled={stopping.isBusy.value}
            onClick={() => void stopping.run(() => conversation.stop())}>{t("chat.stop")}</button>
        )}
      </header>
      <Attempted attempt={stopping} />
    </>
  );
}

/** Its name; a double click, or Enter, changes it. */
function Name({ page, id, name }: { page: Console; id: string; name: string }) {
  const isEdited = useSignal(false);
  const save = (field: HTMLInputElement) => {
    isEdited.value = false;
    const wanted = field.value.trim();
    if (wanted !== name) void page.api.put(`sessions/${encodeURIComponent(id)}`, { name: wanted }).catch(() => undefined);
  };
  if (!isEdited.value) return <h1 title={visible(name)} onDblClick={() => (isEdited.value = true)}>{visible(name)}</h1>;
  return (
    <input class={styles["name"]} aria-label={t("details.name")} defaultValue={name} ref={(field) => field?.focus()}
      onBlur={(event) => save(event.currentTarget)}
      onKeyDown={(event) => (event.key === "Enter" ? event.currentTarget.blur() : event.key === "Escape" && (isEdited.value = false))} />
  );
}

/** What ears hear of a conversation: that a turn has ended, that something is asked; not each word. */
function Announcer({ conversation }: { conversation: Conversation }) {
  conversation.version.value;
  const last = conversation.transcript.rows.at(-1);
  let words = "";
  if (last?.kind === "done") words = t("chat.turnEnded", { status: last.status });
  if (last?.kind === "question" && last.answer === null)
    words = t("chat.asks", { session: conversation.sessionId, title: visible(last.question.title) });
  return <p class="hidden" role="status">{words}</p>;
}
