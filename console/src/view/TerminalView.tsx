import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Console } from "../model/console.ts";
import { Line, type LineState, type Wanted } from "../terminal/line.ts";
import type { Screen } from "../terminal/screen.ts";
import { t } from "../i18n/index.ts";
import { useMedia } from "./media.ts";
import { Problem } from "./Problem.tsx";
import { Skeleton } from "./Skeleton.tsx";
import styles from "./TerminalView.module.css";

/** A shell on the server. It goes on when nobody looks, for as long as the server keeps it. */
export function TerminalView({ page, wanted }: { page: Console; wanted: Wanted }) {
  const place = useRef<HTMLDivElement>(null);
  const line = useRef<Line | null>(null);
  const screen = useRef<Screen | null>(null);
  const state = useSignal<LineState>({ is: "connecting" });
  const problem = useSignal<unknown>(null);
  const round = useSignal(0);
  const isLoaded = useSignal(false);
  const isDark = useMedia("(prefers-color-scheme: dark)");
  useEffect(() => {
    let isGone = false;
    const observer = new ResizeObserver(() => screen.current?.fit());
    page.part(() => import("../terminal/screen.ts")).then((part) => {
      if (isGone || place.current === null) return;
      screen.current = part.openScreen(place.current);
      isLoaded.value = true;
      line.current = connect(page, wanted, screen.current, (news) => (state.value = news));
      observer.observe(place.current);
      screen.current.focus();
    }, (reason: unknown) => (problem.value = reason));
    return () => {
      isGone = true;
      observer.disconnect();
      line.current?.close();
      screen.current?.dispose();
    };
  }, [wanted.terminalId, round.value]);
  useEffect(() => screen.current?.setTheme(), [page.preferences.value.theme, isDark]);
  const now = state.value;
  return (
    <div class={styles["terminal"]}>
      {problem.value !== null && <Problem reason={problem.value} />}
      {now.is === "refused" && <Problem reason={now.reason} onRetry={() => (round.value += 1)} />}
      {!isLoaded.value && problem.value === null && <div class={styles["over"]}><Skeleton /></div>}
      {now.is === "ended" && (
        <p class="notice" role="status">
          {t("terminal.ended", { how: now.signal ?? t("chat.exit", { code: now.exitCode ?? 0 }) })}{" "}
          <button type="button" onClick={() => (round.value += 1)}>{t("terminal.again")}</button>
        </p>
      )}
      <div class={styles["screen"]} ref={place} />
      <KeysBar onKeys={(keys) => { line.current?.send(keys); screen.current?.focus(); }} />
    </div>
  );
}

function connect(page: Console, wanted: Wanted, screen: Screen, onState: (state: LineState) => void): Line {
  const line = new Line(page.api, wanted, () => screen.fit(), (data) => screen.write(data), onState);
  screen.onInput((data) => line.send(data));
  screen.onResize((cols, rows) => line.resize(cols, rows));
  void line.open();
  return line;
}

const KEYS = [
  ["Esc", "\x1b"], ["Tab", "\t"], ["^C", "\x03"], ["^D", "\x04"], ["^R", "\x12"], ["^Z", "\x1a"], ["↑", "\x1b[A"], ["↓", "\x1b[B"], ["←", "\x1b[D"],
  ["→", "\x1b[C"], ["|", "|"], ["/", "/"], ["~", "~"], ["-", "-"],
] as const;

/** Keys that a phone's keyboard does not have. */
function KeysBar({ onKeys }: { onKeys(keys: string): void }) {
  return (
    <div class={styles["keys"]} role="toolbar" aria-label={t("terminal.keys")}>
      {KEYS.map(([name, keys]) => (
        // The focus stays in the terminal: else the phone's keyboard would go.
        <button type="button" onPointerDown={(event) => event.preventDefault()} onClick={() => onKeys(keys)}>{name}</button>
      ))}
    </div>
  );
}
