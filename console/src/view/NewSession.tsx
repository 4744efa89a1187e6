import { useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { Attempt } from "../model/attempt.ts";
import type { Console } from "../model/console.ts";
import { imagesOf, together } from "../model/images.ts";
import { sessionHash } from "../model/route.ts";
import { type Key } from "../i18n/en.ts";
import { t } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import { MODES, Thumbnails } from "./Composer.tsx";
import { useLoaded } from "./load.ts";
import styles from "./NewSession.module.css";
import { Attempted, Problem } from "./Problem.tsx";
import { Prose } from "./Prose.tsx";

/** The draft of a session that has no id yet. */
const NEW = "new";

export function NewSession({ page }: { page: Console }) {
  const found = useLoaded(() => page.loadAgents(), []);
  const chosen = useSignal("");
  const refused = useSignal<string[]>([]);
  const attempt = useMemo(() => new Attempt(), []);
  const draft = page.drafts.of(NEW);
  const agents = found.value ?? page.agents.value ?? [];
  const agent = agents.find((one) => one.name === chosen.value) ?? agents.find((one) => one.usable) ?? agents[0];
  const directories = [...new Set(page.sessions.value.map((session) => session.cwd))].slice(0, 30);
  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    // The same draft sent again is the same session.
    const id = draft.value.messageId;
    if (!(await attempt.run(() => start(page, form, id, draft.value.images)))) return;
    page.drafts.sent(NEW);
    location.hash = sessionHash(id);
  };
  const add = async (files: Iterable<File>) => {
    const { images, others } = await imagesOf(files);
    refused.value = others;
    page.drafts.change(NEW, { images: together(draft.value.images, images) });
  };
  return (
    <form class={styles["form"]} onSubmit={(event) => void submit(event)} onDragOver={(event) => event.preventDefault()}
      onDrop={(event) => { event.preventDefault(); void add(event.dataTransfer?.files ?? []); }}>
      <h1>{t("new.title")}</h1>
      <label>{t("new.prompt")}
        <textarea name="prompt" rows={5} required value={draft.value.text}
          onInput={(event) => page.drafts.change(NEW, { text: event.currentTarget.value })}
          onPaste={(event) => void add(event.clipboardData?.files ?? [])} />
      </label>
      <Thumbnails images={draft.value.images} refused={refused.value} onRemove={(images) => page.drafts.change(NEW, { images })} />
      <label>{t("new.cwd")}
        <input name="cwd" list="directories" placeholder={t("new.cwdHint")} autocomplete="off" spellcheck={false} />
      </label>
      <datalist id="directories">{directories.map((one) => <option value={one} />)}</datalist>
      <div class={styles["choices"]}>
        <label>{t("new.agent")}
          <select name="agent" value={agent?.name ?? ""} onChange={(event) => (chosen.value = event.currentTarget.value)}>
            {agents.map((one) => <option value={one.name}>{one.name}</option>)}
          </select>
        </label>
        <Select name="model" label="new.model" none="new.modelDefault" options={agent?.models ?? []} />
        <Select name="effort" label="composer.effort" none="composer.effortDefault" options={agent?.efforts ?? []} />
        <label>{t("composer.mode")}
          <select name="mode">{MODES.map((mode) => <option value={mode}>{t(`mode.${mode}`)}</option>)}</select>
        </label>
      </div>
      <label class={styles["check"]}><input type="checkbox" name="worktree" />{t("new.worktree")}</label>
      {agent && !agent.usable && (
        <p class="notice"><Prose text={visible(t("new.notReady", { agent: agent.name, problem: agent.problem ?? t("new.noCredentials") }))} /></p>
      )}
      <Problem reason={found.problem} onRetry={found.reload} />
      <Attempted attempt={attempt} />
      <button class="primary" type="submit" disabled={attempt.isBusy.value || page.isFull.value}>{t("new.start")}</button>
    </form>
  );
}

function Select({ name, label, none, options }: { name: string; label: Key; none: Key; options: readonly string[] }) {
  if (options.length === 0) return null;
  return (
    <label>{t(label)}
      <select name={name}>
        <option value="">{t(none)}</option>
        {options.map((one) => <option value={one}>{one}</option>)}
      </select>
    </label>
  );
}

function start(page: Console, form: FormData, id: string, images: string[]): Promise<unknown> {
  const given = (name: string) => String(form.get(name) ?? "").trim();
  // Agents may still be on their way; the server has one that it takes then.
  const optional = { agent: given("agent"), cwd: given("cwd"), model: given("model"), effort: given("effort") };
  return page.api.post("generate/v2", {
    session_id: id,
    prompt: given("prompt"),
    permission_mode: given("mode"),
    background: true,
    message_id: id,
    ...Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== "")),
    ...(images.length > 0 && { images }),
    ...(form.get("worktree") !== null && { use_worktree: true }),
  });
}
