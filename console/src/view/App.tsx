import { useEffect } from "preact/hooks";
import type { Console } from "../model/console.ts";
import type { Route, Router, View } from "../model/route.ts";
import { type Key } from "../i18n/en.ts";
import { plural, t } from "../i18n/index.ts";
import styles from "./App.module.css";
import { Banners } from "./Banners.tsx";
import { Icon } from "./Icon.tsx";
import { Inbox } from "./Inbox.tsx";
import { Keys } from "./Keys.tsx";
import { LoginDialog, LoginPage } from "./Login.tsx";
import { More } from "./More.tsx";
import { NewSession } from "./NewSession.tsx";
import { Palette } from "./Palette.tsx";
import { SessionList } from "./SessionList.tsx";
import { SessionView } from "./SessionView.tsx";
import { Settings } from "./Settings.tsx";
import { Terminals } from "./Terminals.tsx";
import { Usage } from "./Usage.tsx";
import { useMedia } from "./media.ts";

export function App({ page, router }: { page: Console; router: Router }) {
  const route = router.route.value;
  useTitle(page);
  // What index.html shows until then.
  if (!page.isLoaded.value) return <p class="starting">{t("app.name")}</p>;
  if (page.token.value === null) return <LoginPage page={page} />;
  return (
    <>
      <div class={styles["shell"]} data-view={route.view} data-list={page.preferences.value.isListHidden ? "hidden" : "shown"}>
        <Sidebar page={page} route={route} />
        <main class={styles["main"]} id="main">
          <Banners page={page} />
          <Screen page={page} route={route} />
        </main>
      </div>
      <Keys page={page} router={router} />
      <Palette page={page} />
      {page.isLocked.value && <LoginDialog page={page} />}
    </>
  );
}

function Screen({ page, route }: { page: Console; route: Route }) {
  switch (route.view) {
    case "session":
      return <SessionView key={route.id} page={page} route={route} />;
    case "inbox":
      return <Inbox page={page} />;
    case "new":
      return <NewSession page={page} />;
    case "terminals":
      return <Terminals page={page} />;
    case "usage":
      return <Usage page={page} />;
    case "settings":
      return <Settings page={page} />;
    case "more":
      return <More page={page} />;
    case "sessions":
      return <Welcome page={page} />;
  }
}

/** How many wait stands in the title, for tabs that are not looked at. */
function useTitle(page: Console): void {
  const count = page.questions.value.length;
  useEffect(() => {
    document.title = count > 0 ? `(${count}) ${t("app.name")}` : t("app.name");
  }, [count]);
}

/** On a phone the list is the screen; on a desk it stands at the side, and the inbox beside it. */
function Welcome({ page }: { page: Console }) {
  return (
    <>
      <div class={styles["phoneOnly"]}>
        <h1 class="hidden">{t("nav.sessions")}</h1>
        <SessionList page={page} current={null} />
      </div>
      <div class={styles["deskOnly"]}>
        <Inbox page={page} />
      </div>
    </>
  );
}

function Sidebar({ page, route }: { page: Console; route: Route }) {
  return (
    <div class={styles["side"]}>
      <header class={styles["top"]}>
        <a class={styles["brand"]} href="#/sessions">{t("app.name")}</a>
        <span class="quiet">{location.host}</span>
        <button type="button" class="icon-button" aria-label={t("nav.hideList")} title={t("nav.hideList")}
          onClick={() => page.prefer({ isListHidden: true })}><Icon name="back" /></button>
      </header>
      <nav class={styles["nav"]} aria-label={t("nav.main")}>
        <NavLink to="inbox" icon="inbox" current={route.view}><Badge page={page} /></NavLink>
        <NavLink to="sessions" icon="list" current={route.view} />
        <NavLink to="new" icon="plus" current={route.view} />
        <NavLink to="terminals" icon="terminal" current={route.view} />
        <NavLink to="more" icon="more" current={route.view} />
      </nav>
      <div class={styles["deskOnly"]}>
        <SessionList page={page} current={route.view === "session" ? route.id : null} />
        <nav class={styles["foot"]} aria-label={t("nav.about")}>
          <NavLink to="usage" icon="usage" current={route.view} />
          <NavLink to="settings" icon="settings" current={route.view} />
        </nav>
      </div>
    </div>
  );
}

function Badge({ page }: { page: Console }) {
  const count = page.questions.value.length;
  if (count === 0) return null;
  return (
    <span class={styles["badge"]}>
      <span aria-hidden="true">{count}</span>
      <span class="hidden">{plural("inbox.count", count)}</span>
    </span>
  );
}

/** What a phone has behind More. */
const IN_MORE = new Set(["usage", "settings"]);

export function NavLink(props: { to: View; icon: string; current: string; children?: preact.ComponentChildren }) {
  const isShort = useMedia("(max-width: 800px)");
  const isBeside = props.to === "inbox" && props.current === "sessions" && !isShort;
  const isCurrent = props.to === props.current || (props.to === "more" && IN_MORE.has(props.current)) || isBeside;
  return (
    <a class={styles["link"]} data-to={props.to} href={`#/${props.to}`} aria-current={isCurrent ? "page" : undefined}>
      <Icon name={props.icon} />
      <span>{t(isShort && props.to === "new" ? "nav.newShort" : `nav.${props.to}` as Key)}</span>
      {props.children}
    </a>
  );
}
