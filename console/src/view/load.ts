import { type Signal, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";

/** Something that is asked of the server: not here yet, here, or refused. */
export interface Loaded<T> {
  value: T | null;
  problem: unknown;
  reload(): void;
}

/** Ask when the screen opens and when `inputs` change; what was there stays until the new answer is. */
export function useLoaded<T>(ask: () => Promise<T>, inputs: readonly unknown[]): Loaded<T> {
  const value: Signal<T | null> = useSignal<T | null>(null);
  const problem = useSignal<unknown>(null);
  const round = useSignal(0);
  useEffect(() => {
    let isStale = false;
    ask().then(
      (found) => {
        if (isStale) return;
        value.value = found;
        problem.value = null;
      },
      (reason: unknown) => {
        if (!isStale) problem.value = reason;
      },
    );
    return () => (isStale = true);
  }, [...inputs, round.value]);
  return { value: value.value, problem: problem.value, reload: () => (round.value += 1) };
}
