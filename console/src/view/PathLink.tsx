import { createContext } from "preact";
import { useContext } from "preact/hooks";
import { fileHash } from "../model/route.ts";
import { visible } from "../text/visible.ts";

/** The session whose files paths are meant to be. */
export const SessionContext = createContext<{ id: string; cwd: string } | null>(null);

/** `src/a.py`, `a.py:12`, `/home/ada/app/a.py:12:4`: with a directory or a line, and an ending. */
const PATH = /^(\/?(?:[\w.@+-]+\/)*[\w.@+-]+\.[A-Za-z]\w{0,9})(?::(\d+)(?::\d+)?)?$/;

/** A path that leads to the file, from the session's directory on; or the text as it is. */
export function PathLink({ text }: { text: string }) {
  const session = useContext(SessionContext);
  const found = PATH.exec(text);
  const path = found?.[1] ?? "";
  if (session === null || found === null || (!path.includes("/") && found[2] === undefined)) return <>{visible(text)}</>;
  const shown = text.startsWith(`${session.cwd}/`) ? text.slice(session.cwd.length + 1) : text;
  return <a href={fileHash(session.id, path, Number(found[2] ?? 0))} onClick={(event) => event.stopPropagation()}>{visible(shown)}</a>;
}

/** No title of a file's tool is longer. */
const MAX_CHARS = 2000;

/** The same for each word of a line. */
export function PathLinks({ text }: { text: string }) {
  if (text.length > MAX_CHARS) return <>{visible(text)}</>;
  return <>{text.split(/( +)/).map((word) => <PathLink text={word} />)}</>;
}
