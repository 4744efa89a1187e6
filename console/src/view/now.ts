import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";

const TICK_MS = 5_000;

/** The time, as it goes on: what is said of it stays true while somebody looks. */
export function useNow(): number {
  const now = useSignal(Date.now());
  useEffect(() => {
    const timer = setInterval(() => (now.value = Date.now()), TICK_MS);
    return () => clearInterval(timer);
  }, []);
  return now.value;
}
