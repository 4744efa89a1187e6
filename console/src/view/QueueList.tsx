import { useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { segment } from "../api/http.ts";
import type { Queued } from "../api/types.ts";
import { Attempt } from "../model/attempt.ts";
import type { Console } from "../model/console.ts";
import { plural, t } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import { Icon } from "./Icon.tsx";
import { Attempted } from "./Problem.tsx";
import styles from "./QueueList.module.css";

/** The prompts that wait in a session, in their order; they can be moved and taken out. */
export function QueueList({ page, sessionId, count }: { page: Console; sessionId: string; count: number }) {
  const queue = useSignal<Queued[]>([]);
  const attempt = useMemo(() => new Attempt(), [sessionId]);
  const path = `sessions/${segment(sessionId)}/queue`;
  const load = async () => void (queue.value = (await page.api.get<{ queue: Queued[] }>(path)).queue);
  useEffect(() => void load().catch(() => undefined), [sessionId, count]);
  const change = (action: () => Promise<unknown>) => void attempt.run(() => action().finally(load));
  const swap = (index: number) => {
    const ids = queue.value.map((one) => one.taskId);
    [ids[index], ids[index - 1]] = [ids[index - 1] ?? "", ids[index] ?? ""];
    change(() => page.api.put(path, { taskIds: ids }));
  };
  return (
    <details class={styles["queue"]}>
      <summary>{plural("queue.count", count)}</summary>
      <ol>
        {queue.value.map((one, index) => (
          <li key={one.taskId}>
            <span>{visible(one.prompt)}</span>
            {index > 0 && (
              <button type="button" aria-label={t("queue.up")} title={t("queue.up")} onClick={() => swap(index)}><Icon name="up" /></button>
            )}
            <button type="button" aria-label={t("queue.remove")} title={t("queue.remove")}
              onClick={() => change(() => page.api.delete(`${path}/${segment(one.taskId)}`))}><Icon name="close" /></button>
          </li>
        ))}
      </ol>
      <Attempted attempt={attempt} />
    </details>
  );
}
