import { useMemo } from "preact/hooks";
import { ApiError } from "../api/http.ts";
import { Attempt } from "../model/attempt.ts";
import type { Console } from "../model/console.ts";
import { t } from "../i18n/index.ts";
import { useModal } from "./modal.ts";
import styles from "./Login.module.css";
import { Attempted } from "./Problem.tsx";
import { Prose } from "./Prose.tsx";

export function LoginPage({ page }: { page: Console }) {
  return <main class={styles["page"]}><LoginForm page={page} title={t("login.title")} /></main>;
}

/** The token has ended while somebody worked: what they were doing stays where it is, behind this. */
export function LoginDialog({ page }: { page: Console }) {
  const dialog = useModal();
  return (
    <dialog ref={dialog} class={styles["dialog"]} onCancel={(event) => event.preventDefault()} aria-labelledby="login-title">
      <LoginForm page={page} title={t("login.again")} />
    </dialog>
  );
}

function LoginForm({ page, title }: { page: Console; title: string }) {
  const attempt = useMemo(() => new Attempt(), []);
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    void attempt.run(() => page.signIn(String(form.get("key")).trim(), form.get("keep") !== null));
  };
  const reason = attempt.problem.value;
  const isWrong = reason instanceof ApiError && reason.status === 401;
  return (
    <form class={styles["card"]} onSubmit={submit}>
      <header><h1 id="login-title">{title}</h1><p class="quiet">{location.host}</p></header>
      <label for="key">{t("login.key")}</label>
      <input id="key" name="key" type="password" autocomplete="current-password" required
        aria-describedby="login-help" aria-invalid={isWrong} />
      <p id="login-help" class="quiet"><Prose text={t("login.help")} /></p>
      <label class={styles["keep"]}><input name="keep" type="checkbox" />{t("login.keep")}</label>
      {isWrong ? <p class="error" role="alert">{t("login.wrong")}</p> : <Attempted attempt={attempt} />}
      <button class="primary" type="submit" disabled={attempt.isBusy.value}>{t("login.submit")}</button>
    </form>
  );
}
