import type { Job } from "../api/types.ts";
import type { Console } from "../model/console.ts";
import { sessionHash } from "../model/route.ts";
import { byDay, bySession, type Sum } from "../model/usage.ts";
import { dayOf, dollars, duration, plural, t, tokens } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import { useLoaded } from "./load.ts";
import styles from "./pages.module.css";
import { Problem } from "./Problem.tsx";
import { Skeleton } from "./Skeleton.tsx";

const JOBS = 1000;

/** What the newest turns have cost: by day, and by session. */
export function Usage({ page }: { page: Console }) {
  const found = useLoaded(() => page.api.get<{ jobs: Job[]; nextCursor: string | null }>("generate/v2/jobs", { limit: JOBS }), []);
  const jobs = found.value?.jobs ?? [];
  const name = (id: string) => page.session(id)?.name || page.session(id)?.preview || id;
  return (
    <div class={styles["page"]}>
      <h1>{t("nav.usage")}</h1>
      <Problem reason={found.problem} onRetry={found.reload} />
      {found.value === null && found.problem === null && <Skeleton />}
      {found.value !== null && jobs.length === 0 && <p class="empty">{t("usage.empty")}</p>}
      {jobs.length > 0 && (
        <>
          <p class="quiet">{plural("usage.turns", jobs.length)}{found.value?.nextCursor && ` ${t("usage.newest")}`}</p>
          <Table title={t("usage.day")} sums={byDay(jobs)} nameOf={(day) => dayOf(new Date(`${day}T00:00`).getTime())} />
          <Table title={t("usage.session")} sums={bySession(jobs)} nameOf={name} isSession />
        </>
      )}
    </div>
  );
}

function Table(props: { title: string; sums: Sum[]; nameOf(key: string): string; isSession?: boolean }) {
  return (
    <table class={styles["table"]}>
      <thead>
        <tr>
          <th scope="col">{props.title}</th><th scope="col">{t("usage.count")}</th><th scope="col">{t("usage.time")}</th>
          <th scope="col">{t("usage.tokens")}</th><th scope="col">{t("details.cost")}</th>
        </tr>
      </thead>
      <tbody>
        {props.sums.map((sum) => (
          <tr key={sum.key}>
            <td>{props.isSession ? <a href={sessionHash(sum.key)}>{visible(props.nameOf(sum.key))}</a> : props.nameOf(sum.key)}</td>
            <td>{sum.turns}</td><td>{sum.ms > 0 ? duration(sum.ms) : "–"}</td><td>{sum.tokens > 0 ? tokens(sum.tokens) : "–"}</td><td>{sum.usd > 0 ? dollars(sum.usd) : "–"}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
