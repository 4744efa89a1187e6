import { useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import type { Api } from "../api/http.ts";
import type { DiffFile, DiffSummary, Session } from "../api/types.ts";
import { Attempt } from "../model/attempt.ts";
import { asPrompt, type Comment } from "../model/comments.ts";
import type { Console } from "../model/console.ts";
import type { Conversation } from "../model/conversation.ts";
import { newId } from "../model/ids.ts";
import { clock, plural, t } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import styles from "./Changes.module.css";
import { Choice } from "./Composer.tsx";
import { Hunk } from "./Hunk.tsx";
import { Icon } from "./Icon.tsx";
import { useLoaded } from "./load.ts";
import { useMedia } from "./media.ts";
import { Attempted, Problem } from "./Problem.tsx";
import { Skeleton } from "./Skeleton.tsx";

/** With what is compared: a revision, where the session or a turn began, or what one turn has done. */
type Base = { base: string; head?: string };
const MAX_TURNS = 20;
/** There two columns of code are a column of single words. */
const NARROW = "(max-width: 800px)";

/** What has changed in a session's directory: names and counts first, the lines of a file when somebody looks. */
export function Changes({ page, session, conversation }: { page: Console; session: Session; conversation: Conversation }) {
  const base = useSignal("HEAD");
  const version = conversation.turnsEnded.value;
  const found = useLoaded(
    () => page.api.get<DiffSummary>("git/diff", { path: session.cwd, summary: true, ...asBase(base.value) }),
    // Looked at again when a turn has ended, and when asked to.
    [session.cwd, version, base.value],
  );
  const files = found.value?.files ?? [];
  const { diff, wraps } = page.preferences.value;
  const isNarrow = useMedia(NARROW);
  return (
    <div class={styles["changes"]}>
      <div class={styles["bar"]}>
        <p class={`quiet ${styles["sum"]}`}>
          {found.value !== null && <>{plural("changes.count", files.length)} {files.length > 0 && <Counts files={files} />}</>}
        </p>
        <button type="button" class="icon-button" aria-label={t("changes.refresh")} title={t("changes.refresh")} onClick={found.reload}>
          <Icon name="again" />
        </button>
        <Choice label="changes.base" value={base.value} onChange={(value) => (base.value = value)}
          options={basesOf(session, conversation)} />
        {!isNarrow && (
          <Choice label="changes.view" value={diff} onChange={(value) => page.prefer({ diff: value as "unified" | "split" })}
            options={[["unified", t("changes.unified")], ["split", t("changes.split")]]} />
        )}
        {(isNarrow || diff === "unified") && (
          <label class={styles["check"]}>
            <input type="checkbox" checked={wraps} onChange={(event) => page.prefer({ wraps: event.currentTarget.checked })} />
            {t("changes.wrap")}
          </label>
        )}
      </div>
      <Problem reason={found.problem} onRetry={found.reload} />
      {found.value === null && found.problem === null && <Skeleton />}
      {found.value !== null && files.length === 0 && found.problem === null && <p class="empty">{t("changes.empty")}</p>}
      {found.value?.truncated && <p class={styles["note"]}>{t("changes.truncated")}</p>}
      {byDirectory(files).map(([directory, members], _, all) => (
        <>
          {all.length > 1 && (
            <h2 class={styles["directory"]}>
              <code class={styles["name"]}>{visible(directory) || "./"}</code><Counts files={members} />
            </h2>
          )}
          {members.map((file) => (
            <FileView key={`${nameOf(file)} ${version} ${base.value}`} page={page} session={session} file={file} base={asBase(base.value)} />
          ))}
        </>
      ))}
      <Review page={page} session={session} />
    </div>
  );
}

function basesOf(session: Session, conversation: Conversation): [string, string][] {
  const turns = [...conversation.jobs.value.values()].filter((job) => job.firstEventId > 0).slice(0, MAX_TURNS);
  return [
    ["HEAD", t("changes.base.head")],
    [`session:${session.id}`, t("changes.base.session")],
    ["HEAD^", t("changes.base.previous")],
    ...turns.map((job): [string, string] => [`turn:${job.taskId}`, t("changes.base.turn", { when: clock(job.createdAt) })]),
  ];
}

function asBase(chosen: string): Base {
  return chosen.startsWith("turn:") ? { base: chosen, head: chosen } : { base: chosen };
}

function FileView({ page, session, file, base }: { page: Console; session: Session; file: DiffFile; base: Base }) {
  const isOpen = useSignal(false);
  const name = nameOf(file);
  return (
    <details class={styles["file"]} onToggle={(event) => (isOpen.value = event.currentTarget.open)}>
      <summary>
        <code class={styles["name"]} title={visible(name)}>{visible(name.slice(directoryOf(name).length))}</code>
        <span class="quiet">{t(`changes.${file.status}`)}</span>
        <Counts files={[file]} />
        <Icon name="down" />
      </summary>
      {isOpen.value && <Hunks page={page} session={session} file={file} base={base} />}
    </details>
  );
}

function Hunks({ page, session, file, base }: { page: Console; session: Session; file: DiffFile; base: Base }) {
  const name = nameOf(file);
  const found = useLoaded(() => wholeOf(page.api, session.cwd, name, base), [name]);
  // Only who has asked for all lines knows that there are too many.
  const files = found.value ?? [file];
  const comments = page.comments.of(session.id).value.filter((one) => one.path === name);
  const isSplit = !useMedia(NARROW) && page.preferences.value.diff === "split";
  return (
    <>
      <Problem reason={found.problem} onRetry={found.reload} />
      {found.value === null && found.problem === null && <Skeleton />}
      {files.map((one) => <Notes file={one} />)}
      {files.flatMap((one) => one.hunks).map((hunk) => (
        <Hunk hunk={hunk} path={name} isSplit={isSplit} wraps={page.preferences.value.wraps}
          comments={comments} onComment={(comment) => page.comments.put(session.id, comment)} />
      ))}
    </>
  );
}

async function wholeOf(api: Api, cwd: string, name: string, base: Base): Promise<DiffFile[]> {
  return (await api.get<DiffSummary>("git/diff", { path: cwd, paths: name, ...base })).files;
}

/** Comments on lines, as drafts, until they are sent together as one prompt. */
function Review({ page, session }: { page: Console; session: Session }) {
  const attempt = useMemo(() => new Attempt(), [session.id]);
  const comments = page.comments.of(session.id).value;
  if (comments.length === 0) return null;
  const send = async () => {
    const prompt = { prompt: asPrompt(comments), agent: session.agent, if_busy: "queue" as const, message_id: reviewId(comments) };
    if (await attempt.run(() => page.conversation(session.id).send(prompt))) page.comments.clear(session.id);
  };
  return (
    <div class={styles["review"]}>
      <h2>{plural("review.count", comments.length)}</h2>
      <ul>
        {comments.map((comment) => (
          <li key={comment.id}>
            <code>{visible(`${comment.path}:${comment.line}`)}</code> {comment.text}
            <button type="button" class="icon-button" aria-label={t("review.remove")}
              onClick={() => page.comments.remove(session.id, comment.id)}>×</button>
          </li>
        ))}
      </ul>
      <Attempted attempt={attempt} onRetry={() => void send()} />
      <button type="button" class="primary" disabled={attempt.isBusy.value} onClick={() => void send()}>{t("review.send")}</button>
    </div>
  );
}

/** The same comments sent again are the same prompt. */
function reviewId(comments: readonly Comment[]): string {
  return comments[0]?.id ?? newId();
}

/** Why a file's lines are not all there. */
function Notes({ file }: { file: DiffFile }) {
  const notes = (["binary", "conflicted", "truncated", "unreadable"] as const).filter((note) => file[note]);
  return <>{notes.map((note) => <p class={styles["note"]}>{t(`changes.is.${note}`)}</p>)}</>;
}

/** How many lines have come and gone. */
function Counts({ files }: { files: readonly DiffFile[] }) {
  const sum = (what: "additions" | "deletions") => files.reduce((all, file) => all + file[what], 0);
  return (
    <span class={styles["counts"]}>
      <span class={styles["added"]}>+{sum("additions")}</span> <span class={styles["deleted"]}>−{sum("deletions")}</span>
    </span>
  );
}

function byDirectory(files: readonly DiffFile[]): [string, DiffFile[]][] {
  const found = new Map<string, DiffFile[]>();
  for (const file of files) {
    const directory = directoryOf(nameOf(file));
    found.set(directory, [...(found.get(directory) ?? []), file]);
  }
  return [...found];
}

/** With its last slash; empty for what lies at the top. */
function directoryOf(name: string): string {
  return name.slice(0, name.lastIndexOf("/") + 1);
}

function nameOf(file: DiffFile): string {
  return file.newPath ?? file.oldPath ?? "";
}
