import { useMemo } from "preact/hooks";
import type { Session } from "../api/types.ts";
import type { Console } from "../model/console.ts";
import { TerminalView } from "./TerminalView.tsx";

const MAX_NAME = 128;

/** A shell in the session's directory: the same one whenever and wherever it is opened. */
export function SessionTerminal({ page, session }: { page: Console; session: Session }) {
  const wanted = useMemo(
    () => ({ terminalId: `console-${session.id}`.slice(0, MAX_NAME), cwd: session.cwd }),
    [session.id, session.cwd],
  );
  return <TerminalView page={page} wanted={wanted} />;
}
