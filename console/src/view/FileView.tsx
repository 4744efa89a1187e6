import { useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { ApiError } from "../api/http.ts";
import type { Session } from "../api/types.ts";
import { Attempt } from "../model/attempt.ts";
import type { Console } from "../model/console.ts";
import { nameOf } from "../model/files.ts";
import { bytes, t } from "../i18n/index.ts";
import { visible } from "../text/visible.ts";
import { Copy } from "./Copy.tsx";
import { BackToFiles } from "./Files.tsx";
import styles from "./Files.module.css";
import { Icon } from "./Icon.tsx";
import { useLoaded } from "./load.ts";
import { Attempted, Problem } from "./Problem.tsx";
import { Skeleton } from "./Skeleton.tsx";

/** More is for a program of one's own. */
const MAX_BYTES = 2 * 1024 * 1024;
/** Longer texts are shown without colours. */
const MAX_COLOURED = 300_000;

interface Content {
  text: string;
  etag: string | null;
  /** An object's URL, for pictures. */
  image: string | null;
  size: number;
  isText: boolean;
}

interface Props {
  page: Console;
  session: Session;
  path: string;
  line: number;
  changes: number;
}

/** One file: with its colours, to be downloaded, to be changed unless somebody else has meanwhile. */
export function FileView({ page, session, path, line, changes }: Props) {
  const edited = useSignal<Content | null>(null);
  const found = useLoaded(() => read(page, path), [path, changes]);
  const content = edited.value ?? found.value;
  useEffect(() => () => { if (found.value?.image) URL.revokeObjectURL(found.value.image); }, [found.value]);
  return (
    <div class={styles["files"]}>
      <div class={styles["bar"]}>
        <BackToFiles session={session} />
        <span class={styles["path"]}>
          <code title={visible(path)}>{visible(path.startsWith(`${session.cwd}/`) ? path.slice(session.cwd.length + 1) : path)}</code>
          <Copy text={path} />
        </span>
        {content && <span class="quiet">{bytes(content.size)}</span>}
        <Download page={page} path={path} />
        {content?.isText && edited.value === null && (
          <button type="button" onClick={() => (edited.value = content)}>{t("files.edit")}</button>
        )}
      </div>
      {found.value === null && found.problem !== null && <Problem reason={found.problem} onRetry={found.reload} />}
      {content === null && found.problem === null && <Skeleton />}
      {edited.value !== null ? (
        <Editor page={page} path={path} content={edited.value}
          onDone={() => { edited.value = null; found.reload(); }} />
      ) : content && <Shown page={page} path={path} content={content} line={line} />}
    </div>
  );
}

function Shown({ page, path, content, line }: { page: Console; path: string; content: Content; line: number }) {
  if (content.image !== null) return <img class={styles["image"]} src={content.image} alt={nameOf(path)} />;
  if (!content.isText) return <p class="empty">{t(content.size > MAX_BYTES ? "files.large" : "files.binary")}</p>;
  return <Source page={page} path={path} text={content.text} line={line} />;
}

function Source({ page, path, text, line }: { page: Console; path: string; text: string; line: number }) {
  const coloured = useSignal<preact.ComponentChildren[][] | null>(null);
  useEffect(() => {
    let isStale = false;
    coloured.value = null;
    if (text.length < MAX_COLOURED)
      void page.part(() => import("../text/highlight.tsx")).then((part) => {
        if (!isStale) coloured.value = part.highlighted(text, nameOf(path));
      }, () => undefined);
    return () => (isStale = true);
  }, [text, path]);
  const lines = useMemo(() => text.replace(/\n$/, "").split("\n"), [text]);
  const wanted = useRef<HTMLDivElement>(null);
  useEffect(() => wanted.current?.scrollIntoView({ block: "center" }), [line, path]);
  return (
    <div class={styles["source"]} tabIndex={0} role="region" aria-label={nameOf(path)}>
      {lines.map((words, index) => (
        <div class={styles["line"]} ref={index + 1 === line ? wanted : null} data-wanted={index + 1 === line}>
          <span class={styles["number"]}>{index + 1}</span>
          <code>{coloured.value?.[index] ?? visible(words)}</code>
        </div>
      ))}
    </div>
  );
}

function Editor({ page, path, content, onDone }: { page: Console; path: string; content: Content; onDone(): void }) {
  const attempt = useMemo(() => new Attempt(), [path]);
  const field = useRef<HTMLTextAreaElement>(null);
  const save = async (headers: Record<string, string>) => {
    const text = field.current?.value ?? "";
    if (await attempt.run(() => page.api.upload("PUT", "filesystem/content", { path }, text, headers))) onDone();
  };
  const reason = attempt.problem.value;
  const hasChanged = reason instanceof ApiError && reason.status === 412;
  const headers: Record<string, string> = content.etag === null ? {} : { "If-Match": content.etag };
  return (
    <form class={styles["editor"]} onSubmit={(event) => { event.preventDefault(); void save(headers); }}>
      <textarea ref={field} defaultValue={content.text} spellcheck={false} aria-label={nameOf(path)} />
      {hasChanged ? (
        <div class="notice" role="alert">
          <p>{t("files.changed")}</p>
          <button type="button" class="danger" onClick={() => void save({})}>{t("files.overwrite")}</button>
          <button type="button" onClick={onDone}>{t("files.discard")}</button>
        </div>
      ) : <Attempted attempt={attempt} />}
      <div class={styles["bar"]}>
        <button type="submit" class="primary" disabled={attempt.isBusy.value}>{t("save")}</button>
        <button type="button" onClick={onDone}>{t("cancel")}</button>
      </div>
    </form>
  );
}

/** By a ticket, so that the browser itself saves it, however large it is. */
function Download({ page, path }: { page: Console; path: string }) {
  const attempt = useMemo(() => new Attempt(), [path]);
  const start = () =>
    attempt.run(async () => {
      const { ticket } = await page.api.post<{ ticket: string }>("auth/tickets", {});
      const link = document.createElement("a");
      link.href = `${page.api.root}filesystem/content?${new URLSearchParams({ path, ticket }).toString()}`;
      link.download = nameOf(path);
      link.click();
    });
  return (
    <>
      <button type="button" class="icon-button" aria-label={t("files.download")} title={t("files.download")} onClick={() => void start()}>
        <Icon name="download" />
      </button>
      <Attempted attempt={attempt} />
    </>
  );
}

async function read(page: Console, path: string): Promise<Content> {
  const response = await page.api.raw("filesystem/content", { path });
  const size = Number(response.headers.get("Content-Length") ?? 0);
  const etag = response.headers.get("ETag");
  const image = imageType(path);
  if (size > MAX_BYTES) {
    await response.body?.cancel();
    return { text: "", etag, image: null, size, isText: false };
  }
  const data = await response.arrayBuffer();
  if (image !== null) {
    const url = URL.createObjectURL(new Blob([data], { type: image }));
    return { text: "", etag, image: url, size: data.byteLength, isText: false };
  }
  const text = asText(data);
  return { text: text ?? "", etag, image: null, size: data.byteLength, isText: text !== null };
}

function imageType(path: string): string | null {
  const ending = /\.(png|jpe?g|gif|webp)$/i.exec(path)?.[1]?.toLowerCase();
  return ending === undefined ? null : `image/${ending === "jpg" ? "jpeg" : ending}`;
}

/** Null for what is no text. */
function asText(data: ArrayBuffer): string | null {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
    return text.includes("\0") ? null : text;
  } catch {
    return null;
  }
}
