import { useMemo } from "preact/hooks";
import { ApiError, segment } from "../api/http.ts";
import type { Agent, Device } from "../api/types.ts";
import { Attempt } from "../model/attempt.ts";
import type { Console } from "../model/console.ts";
import type { Preferences } from "../model/preferences.ts";
import { ago, date, t } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import { useLoaded } from "./load.ts";
import { useNow } from "./now.ts";
import styles from "./pages.module.css";
import { Attempted, Problem } from "./Problem.tsx";
import { Prose } from "./Prose.tsx";
import { Skeleton } from "./Skeleton.tsx";
import { StatusMark } from "./StatusMark.tsx";

export function Settings({ page }: { page: Console }) {
  return (
    <div class={styles["page"]}>
      <h1>{t("nav.settings")}</h1>
      <Look page={page} />
      <Agents page={page} />
      <Devices page={page} />
      <div><button type="button" onClick={() => page.signOut()}>{t("login.out")}</button></div>
    </div>
  );
}

const THEMES = ["system", "light", "dark"] as const;

function Look({ page }: { page: Console }) {
  const { theme, hasKeys, notifies } = page.preferences.value;
  return (
    <section class={styles["group"]} aria-labelledby="look">
      <h2 id="look">{t("settings.look")}</h2>
      <div class={styles["inline"]}>
        <label>{t("settings.theme")}
          <select value={theme} onChange={(event) => page.prefer({ theme: event.currentTarget.value as Preferences["theme"] })}>
            {THEMES.map((one) => <option value={one}>{t(`settings.theme.${one}`)}</option>)}
          </select>
        </label>
      </div>
      <div class={styles["inline"]}>
        <label><input type="checkbox" checked={hasKeys} onChange={(event) => page.prefer({ hasKeys: event.currentTarget.checked })} />{t("settings.keys")}</label>
        <button type="button" onClick={() => (page.overlay.value = "keys")}>{t("keys.title")}</button>
      </div>
      <Notifications page={page} isOn={notifies} />
      {!window.isSecureContext && <p class="notice">{t("settings.insecure")}</p>}
    </section>
  );
}

function Notifications({ page, isOn }: { page: Console; isOn: boolean }) {
  if (!window.isSecureContext || !("Notification" in window)) return null;
  const change = async (wanted: boolean) =>
    page.prefer({ notifies: wanted && (await Notification.requestPermission()) === "granted" });
  return (
    <div class={styles["inline"]}>
      <label>
        <input type="checkbox" checked={isOn} onChange={(event) => void change(event.currentTarget.checked)} />{t("settings.notify")}
      </label>
      {Notification.permission === "denied" && <span class="quiet">{t("settings.notifyDenied")}</span>}
    </div>
  );
}

/** Which agents there are, and what is wrong with those that cannot work. */
function Agents({ page }: { page: Console }) {
  const found = useLoaded(() => page.loadAgents(), []);
  return (
    <section class={styles["group"]} aria-labelledby="agents">
      <h2 id="agents">{t("settings.agents")}</h2>
      <Problem reason={found.problem} onRetry={found.reload} />
      {found.value === null && found.problem === null && <Skeleton />}
      <ul class={styles["rows"]}>{found.value?.map((agent) => <AgentRow key={agent.name} agent={agent} />)}</ul>
    </section>
  );
}

function AgentRow({ agent }: { agent: Agent }) {
  const problem = agent.problem ?? (agent.usable ? null : t("new.noCredentials"));
  return (
    <li>
      <StatusMark status={agent.usable ? "idle" : "failed"} />
      <div class={styles["grow"]}>
        <strong>{agent.name}</strong> <span class="quiet">{agent.version}</span>
        <p class={problem === null ? "quiet" : "error"}><Prose text={visible(problem ?? agent.path ?? "")} /></p>
        <p class="quiet">{agent.models.slice(0, 3).join(", ")}</p>
      </div>
    </li>
  );
}

/** The keys that browsers and phones have been given. */
function Devices({ page }: { page: Console }) {
  const found = useLoaded(() => page.api.get<{ tokens: Device[] }>("auth/tokens").then((answer) => answer.tokens), []);
  const ending = useMemo(() => new Attempt(), []);
  const now = useNow();
  const end = (id: string) => void ending.run(() => page.api.delete(`auth/tokens/${segment(id)}`)).then(found.reload);
  // Only the key itself may see its devices.
  const isDevice = found.problem instanceof ApiError && found.problem.status === 403;
  return (
    <section class={styles["group"]} aria-labelledby="devices">
      <h2 id="devices">{t("settings.devices")}</h2>
      {isDevice ? <p class="quiet">{t("settings.devicesKey")}</p> : <Problem reason={found.problem} onRetry={found.reload} />}
      {found.value?.length === 0 && <p class="quiet">{t("settings.noDevices")}</p>}
      <ul class={styles["rows"]}>
        {found.value?.map((device) => (
          <li key={device.id}>
            <div class={styles["grow"]}>
              <strong>{visible(device.name)}</strong>
              <p class="quiet">
                {t("settings.used", { when: device.usedAt ? ago(device.usedAt, now) : t("settings.never") })}
                {device.expiresAt && <> · {t("settings.until", { when: date(device.expiresAt) })}</>}
              </p>
            </div>
            <button type="button" class="danger" onClick={() => end(device.id)}>{t("settings.revoke")}</button>
          </li>
        ))}
      </ul>
      <Attempted attempt={ending} />
    </section>
  );
}
