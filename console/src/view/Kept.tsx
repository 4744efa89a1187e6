import { useMemo } from "preact/hooks";
import { segment } from "../api/http.ts";
import type { Session } from "../api/types.ts";
import { Attempt } from "../model/attempt.ts";
import type { Console } from "../model/console.ts";
import { type Key } from "../i18n/en.ts";
import { date, t } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import { useLoaded } from "./load.ts";
import styles from "./pages.module.css";
import { Attempted, Problem } from "./Problem.tsx";

interface Item {
  id: string;
  what: string;
  note?: string;
  remove(): Promise<unknown>;
}

/** What a session keeps beside its conversation: what runs on, what it has planned, what it may do. All can be ended. */
export function Kept({ page, session, turnsEnded }: { page: Console; session: Session; turnsEnded: number }) {
  const base = `sessions/${segment(session.id)}`;
  const background = async (): Promise<Item[]> => {
    const { tasks } = await page.api.get<{ tasks: { id: string; kind: string; title: string }[] }>(`${base}/background`);
    return tasks.map(({ id, kind, title }) => (
      { id, what: title || id, note: kind, remove: () => page.api.delete(`${base}/background/${segment(id)}`) }));
  };
  const timers = async (): Promise<Item[]> => {
    const found = await page.api.get<{ timers: { timerId: string; at: string; schedule: string | null; prompt: string }[] }>(`${base}/timers`);
    return found.timers.map(({ timerId, at, schedule, prompt }) => ({
      id: timerId, what: prompt, note: [date(at), schedule].filter(Boolean).join(" · "),
      remove: () => page.api.delete(`${base}/timers/${segment(timerId)}`),
    }));
  };
  const allowances = async (): Promise<Item[]> => {
    const found = await page.api.get<{ allowances: string[] }>(`${base}/allowances`);
    return found.allowances.map((allowance) => (
      { id: allowance, what: allowance, remove: () => page.api.delete(`${base}/allowances`, { allowance }) }));
  };
  const inputs = [session.id, session.updatedAt, turnsEnded];
  return (
    <>
      <Items title="details.background" action="details.end" find={background} inputs={inputs} />
      <Items title="details.timers" action="details.cancel" find={timers} inputs={inputs} />
      <Items title="details.allowed" action="details.takeBack" find={allowances} inputs={inputs} />
    </>
  );
}

/** A list, unless there is nothing in it; each item with a button that ends it. */
function Items({ title, action, find, inputs }: { title: Key; action: Key; find(): Promise<Item[]>; inputs: readonly unknown[] }) {
  const found = useLoaded(find, inputs);
  const attempt = useMemo(() => new Attempt(), [inputs[0]]);
  if (found.problem === null && (found.value ?? []).length === 0) return null;
  const remove = (item: Item) => void attempt.run(() => item.remove()).then(found.reload);
  return (
    <section class={styles["group"]} aria-label={t(title)}>
      <h2>{t(title)}</h2>
      <Problem reason={found.problem} onRetry={found.reload} />
      <ul class={styles["rows"]}>
        {found.value?.map((item) => (
          <li key={item.id}>
            <div class={styles["grow"]}>
              <code>{visible(item.what)}</code>
              {item.note && <p class="quiet">{visible(item.note)}</p>}
            </div>
            <button type="button" onClick={() => remove(item)}>{t(action)}</button>
          </li>
        ))}
      </ul>
      <Attempted attempt={attempt} />
    </section>
  );
}
