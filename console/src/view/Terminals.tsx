import { useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { segment } from "../api/http.ts";
import type { Terminal } from "../api/types.ts";
import { Attempt } from "../model/attempt.ts";
import type { Console } from "../model/console.ts";
import { newId } from "../model/ids.ts";
import type { Wanted } from "../terminal/line.ts";
import { ago, plural, t } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import { Icon } from "./Icon.tsx";
import { useLoaded } from "./load.ts";
import { useNow } from "./now.ts";
import styles from "./pages.module.css";
import { Attempted, Problem } from "./Problem.tsx";
import { Skeleton } from "./Skeleton.tsx";
import { TerminalView } from "./TerminalView.tsx";

/** The shells that run on the server; one can be looked at, or begun. */
export function Terminals({ page }: { page: Console }) {
  const shown = useSignal<Wanted | null>(null);
  if (shown.value !== null) {
    return (
      <div class={styles["whole"]}>
        <header class={styles["head"]}>
          <button type="button" class="icon-button" aria-label={t("back")} onClick={() => (shown.value = null)}><Icon name="back" /></button>
          <h1>{shown.value.terminalId}</h1>
        </header>
        <TerminalView key={shown.value.terminalId} page={page} wanted={shown.value} />
      </div>
    );
  }
  return <List page={page} onOpen={(wanted) => (shown.value = wanted)} />;
}

function List({ page, onOpen }: { page: Console; onOpen(wanted: Wanted): void }) {
  const found = useLoaded(() => page.api.get<{ terminals: Terminal[] }>("terminals").then((answer) => answer.terminals), []);
  const now = useNow();
  const ending = useMemo(() => new Attempt(), []);
  const end = (id: string) => void ending.run(() => page.api.delete(`terminals/${segment(id)}`)).then(found.reload);
  return (
    <section class={styles["page"]} aria-labelledby="terminals">
      <header class={styles["title"]}>
        <h1 id="terminals">{t("nav.terminals")}</h1>
        <button type="button" onClick={() => onOpen({ terminalId: `console-${newId().slice(0, 8)}` })}>{t("terminal.new")}</button>
      </header>
      <Problem reason={found.problem} onRetry={found.reload} />
      <Attempted attempt={ending} />
      {found.value === null && found.problem === null && <Skeleton />}
      {found.value?.length === 0 && <p class="empty">{t("terminal.empty")}</p>}
      <ul class={styles["rows"]}>
        {found.value?.map((terminal) => (
          <li key={terminal.terminalId}>
            <button type="button" class={styles["row"]} onClick={() => onOpen({ terminalId: terminal.terminalId, deploymentId: terminal.deploymentId })}>
              <Icon name="terminal" />
              <strong>{visible(terminal.terminalId)}</strong>
              <span class="quiet">{visible(terminal.cwd)} · {plural("terminal.clients", terminal.clients)} · {ago(terminal.createdAt, now)}</span>
            </button>
            <button type="button" class="danger" onClick={() => end(terminal.terminalId)}>{t("terminal.end")}</button>
          </li>
        ))}
      </ul>
    </section>
  );
}
