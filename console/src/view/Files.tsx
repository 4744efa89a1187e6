import { useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { keepOpen } from "../api/follow.ts";
import type { Entry, Match, Session } from "../api/types.ts";
import { Attempt } from "../model/attempt.ts";
import type { Console } from "../model/console.ts";
import { absolute, type Listing, type Place, placeOf } from "../model/files.ts";
import { fileHash, sessionHash } from "../model/route.ts";
import { bytes, plural, t } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import { FileView } from "./FileView.tsx";
import styles from "./Files.module.css";
import { Icon } from "./Icon.tsx";
import { useLate } from "./Banners.tsx";
import { useLoaded } from "./load.ts";
import { Attempted, Problem } from "./Problem.tsx";
import { Skeleton } from "./Skeleton.tsx";

interface Props {
  page: Console;
  session: Session;
  path: string;
  line: number;
}

/** The files of a session's directory: a tree, a search in names and contents, and one file at a time. */
export function Files({ page, session, path, line }: Props) {
  const changes = useWatch(page, session.cwd);
  if (path !== "") return <FileView page={page} session={session} path={absolute(path, session.cwd)} line={line} changes={changes} />;
  return <Browser page={page} session={session} changes={changes} />;
}

function Browser({ page, session, changes }: { page: Console; session: Session; changes: number }) {
  const words = useSignal("");
  const kind = useSignal<"names" | "contents">("names");
  return (
    <div class={styles["files"]}>
      <form class={styles["bar"]} role="search" onSubmit={(event) => event.preventDefault()}>
        <input type="search" placeholder={t(`files.search.${kind.value}`)} aria-label={t(`files.search.${kind.value}`)}
          onInput={(event) => (words.value = event.currentTarget.value)} />
        <select aria-label={t("files.searchIn")} value={kind.value}
          onChange={(event) => (kind.value = event.currentTarget.value as "names" | "contents")}>
          <option value="names">{t("files.names")}</option>
          <option value="contents">{t("files.contents")}</option>
        </select>
        <Upload page={page} cwd={session.cwd} />
      </form>
      {words.value.trim() === "" ? (
        <ul class={styles["tree"]}><Branch page={page} session={session} path={session.cwd} changes={changes} /></ul>
      ) : (
        <Found page={page} session={session} words={words.value.trim()} kind={kind.value} />
      )}
    </div>
  );
}

/** Rises when something in the directory has changed; the server watches only while this is shown. */
function useWatch(page: Console, cwd: string): number {
  const changes = useSignal(0);
  useEffect(() => {
    const ended = new AbortController();
    const stream = {
      path: "filesystem/watch",
      query: () => ({ path: cwd }),
      onFrame: () => (changes.value += 1),
      onConnected: () => undefined,
    };
    // Where it cannot be watched it can still be looked at.
    keepOpen(page.api, stream, ended.signal).catch(() => undefined);
    return () => ended.abort();
  }, [cwd]);
  return changes.value;
}

interface BranchProps {
  page: Console;
  session: Session;
  path: string;
  changes: number;
}

function Branch({ page, session, path, changes }: BranchProps) {
  const found = useLoaded(
    () => page.api.get<Listing>("filesystem/files", { path, includeFiles: true, maxDepth: 1, limit: 2000 }),
    [path, changes],
  );
  const isSlow = useLate(found.value === null && found.problem === null, 200);
  if (found.problem !== null && found.value === null) return <li><Problem reason={found.problem} onRetry={found.reload} /></li>;
  if (found.value === null) return isSlow ? <li class="quiet">{t("loading")}</li> : null;
  const place = placeOf(found.value);
  return (
    <>
      {found.value.entries.map((entry) =>
        entry.type === "directory" && !entry.denied
          ? <Folder key={entry.path} entry={entry} page={page} session={session} path={place.of(entry)} changes={changes} />
          : <File key={entry.path} entry={entry} session={session} place={place} />)}
      {found.value.entries.length === 0 && <li class="quiet">{t("files.empty")}</li>}
      {found.value.truncated && <li class="quiet">{t("files.truncated")}</li>}
    </>
  );
}

function Folder({ entry, ...props }: BranchProps & { entry: Entry }) {
  const isOpen = useSignal(false);
  return (
    <li>
      <details onToggle={(event) => (isOpen.value = event.currentTarget.open)}>
        <summary class={styles["entry"]}><Icon name="folder" /><span>{visible(entry.name)}</span></summary>
        {isOpen.value && <ul><Branch {...props} /></ul>}
      </details>
    </li>
  );
}

function File({ entry, session, place }: { entry: Entry; session: Session; place: Place }) {
  return (
    <li>
      <a class={styles["entry"]} href={fileHash(session.id, place.of(entry))}>
        <Icon name="file" /><span>{visible(entry.name)}</span>
        {entry.size !== undefined && <span class="quiet">{bytes(entry.size)}</span>}
      </a>
    </li>
  );
}

const TYPING_MS = 200;

function Found({ page, session, words, kind }: { page: Console; session: Session; words: string; kind: "names" | "contents" }) {
  const asked = useSignal(words);
  useEffect(() => {
    const timer = setTimeout(() => (asked.value = words), TYPING_MS);
    return () => clearTimeout(timer);
  }, [words]);
  return kind === "names"
    ? <Names page={page} session={session} words={asked.value} />
    : <Contents page={page} session={session} words={asked.value} />;
}

function Names({ page, session, words }: { page: Console; session: Session; words: string }) {
  const query = { q: words, root: session.cwd, includeFiles: true, limit: 100 };
  const found = useLoaded(() => page.api.get<Listing>("filesystem/search", query), [words]);
  // The answer's own path is what was searched for: where the workspace is, a listing tells.
  const root = useLoaded(() => page.api.get<Listing>("filesystem/files", { path: session.cwd, maxDepth: 1, limit: 1 }), [session.cwd]);
  const problem = found.problem ?? root.problem;
  if (problem !== null) return <Problem reason={problem} onRetry={() => { found.reload(); root.reload(); }} />;
  if (found.value === null || root.value === null) return <Skeleton />;
  const place = placeOf(root.value);
  if (found.value.entries.length === 0) return <p class="empty">{t("files.nothing")}</p>;
  return (
    <ul class={styles["tree"]}>
      {found.value.entries.filter((entry) => entry.type !== "directory").map((entry) => (
        <li key={entry.path}>
          <a class={styles["entry"]} href={fileHash(session.id, place.of(entry))}>
            <Icon name="file" /><span>{visible(place.below(entry.path))}</span>
          </a>
        </li>
      ))}
    </ul>
  );
}

interface Grep {
  path: string;
  fullPath: string;
  matches: Match[];
  truncated: boolean;
}

function Contents({ page, session, words }: { page: Console; session: Session; words: string }) {
  const found = useLoaded(() => page.api.get<Grep>("filesystem/grep", { q: words, path: session.cwd, limit: 300 }), [words]);
  if (found.value === null) return found.problem === null ? <Skeleton /> : <Problem reason={found.problem} onRetry={found.reload} />;
  const place = placeOf(found.value);
  const { matches, truncated } = found.value;
  if (matches.length === 0) return <p class="empty">{t("files.nothing")}</p>;
  return (
    <>
      <p class="quiet">{plural("files.matches", matches.length)}{truncated && ` ${t("files.truncated")}`}</p>
      <ul class={styles["tree"]}>
        {matches.map((match) => (
          <li>
            <a class={styles["match"]} href={fileHash(session.id, place.of(match), match.line)}>
              <span class="quiet">{visible(`${place.below(match.path)}:${match.line}`)}</span>
              <code>{visible(match.text.trim().slice(0, 300))}</code>
            </a>
          </li>
        ))}
      </ul>
    </>
  );
}

function Upload({ page, cwd }: { page: Console; cwd: string }) {
  const attempt = useMemo(() => new Attempt(), [cwd]);
  const send = (files: FileList | null) => {
    if (files === null || files.length === 0) return;
    const form = new FormData();
    form.set("targetPath", cwd);
    for (const file of files) form.append("files", file);
    void attempt.run(() => page.api.upload("POST", "filesystem/upload", {}, form));
  };
  return (
    <>
      <label class={styles["upload"]} title={t("files.upload")}>
        <Icon name="upload" /><span class="hidden">{t("files.upload")}</span>
        <input class="hidden" type="file" multiple onChange={(event) => send(event.currentTarget.files)} />
      </label>
      <Attempted attempt={attempt} />
    </>
  );
}

export function BackToFiles({ session }: { session: Session }) {
  return <a class="icon-button" href={sessionHash(session.id, "files")} aria-label={t("files.all")} title={t("files.all")}><Icon name="back" /></a>;
}
