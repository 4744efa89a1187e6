import {
  elementScroll, measureElement, observeElementOffset, observeElementRect, Virtualizer, type VirtualizerOptions,
} from "@tanstack/virtual-core";
import { type Signal, useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import type { Console } from "../model/console.ts";
import type { Conversation } from "../model/conversation.ts";
import { type Shown, shown } from "../model/turns.ts";
import { plural, t } from "../i18n/index.ts";
import styles from "./Feed.module.css";
import { Problem } from "./Problem.tsx";
import { RowView } from "./RowView.tsx";
import { Skeleton } from "./Skeleton.tsx";

const ESTIMATE_PX = 72;
const END_PX = 4;
/** Nearer to the end nobody needs a way there. */
const NEAR_PX = 80;
const LEAVING_MS = 200;
/** So near the top the messages before are asked for. */
const OLDER_PX = 1200;
/** A place further back than so many pages is given up. */
const MAX_PAGES_BACK = 30;
/** So many pictures it may take until the place is reached. */
const MAX_FRAMES = 60;
/** A feed has articles. */
const FEED = { role: "feed", "aria-label": t("chat.feed") } as const;
const UPWARDS = new Set(["ArrowUp", "PageUp", "Home"]);

type List = Virtualizer<HTMLDivElement, HTMLElement>;

/**
 * The conversation: only what is near the window is in the document.
 *
 * Who stands at the end stays there while it grows; who reads further up is not moved.
 */
export function Feed({ page, conversation }: { page: Console; conversation: Conversation }) {
  conversation.version.value;
  const rows = shown(conversation.transcript.rows, conversation.unfolded.value);
  const scroller = useRef<HTMLDivElement>(null);
  const virtualizer = useVirtualizer(rows, scroller);
  // Only a person's hand takes the view from the end; what grows or is measured anew does not.
  const isAtEnd = useRef(true);
  const leftAt = useRef({ time: 0, key: "" });
  const problem = useSignal<unknown>(null);
  const leave = (event: Event) => {
    if (isAtEnd.current) leftAt.current = { time: event.timeStamp, key: rows.at(-1)?.key ?? "" };
    else leftAt.current.time = event.timeStamp;
    isAtEnd.current = false;
  };
  const loadOlder = () =>
    conversation.older().then(() => (problem.value = null), (reason: unknown) => (problem.value = reason));
  const onScroll = ({ currentTarget: place, timeStamp }: { currentTarget: HTMLElement; timeStamp: number }) => {
    if (place.scrollTop < OLDER_PX && conversation.hasOlder.value && problem.value === null) void loadOlder();
    // What is scrolled before is the way to the end of a page that has just been opened, and from there to the place.
    if (!isRestored.current) return;
    // A scroll of our own, to the end, may still have been under way when somebody left it.
    if (timeStamp - leftAt.current.time >= LEAVING_MS) isAtEnd.current ||= distanceOf(place) < END_PX;
    const first = rows[virtualizer.getVirtualItemForOffset(place.scrollTop)?.index ?? -1];
    page.reading.note(conversation.sessionId, isAtEnd.current || first === undefined ? null : { key: first.key, seq: first.seq });
  };
  const isRestored = useRestoredPlace(page, conversation, virtualizer, isAtEnd);
  useLayoutEffect(() => {
    if (isAtEnd.current) virtualizer.scrollToEnd();
  });
  const wanted = conversation.wanted.value;
  useEffect(() => {
    const index = wanted === null ? -1 : rows.findIndex((row) => row.key === wanted.key);
    if (index < 0) return;
    isAtEnd.current = false;
    virtualizer.scrollToIndex(index, { align: "start" });
  }, [wanted]);
  const toEnd = () => {
    isAtEnd.current = true;
    page.reading.note(conversation.sessionId, null);
    virtualizer.scrollToEnd();
  };
  const lastSeen = rows.findLastIndex((row) => row.key === leftAt.current.key);
  const news = lastSeen < 0 ? 0 : rows.length - 1 - lastSeen;
  return (
    <div class={styles["scroller"]} ref={scroller} tabIndex={0} {...(rows.length > 0 && FEED)}
      onWheel={(event) => event.deltaY < 0 && leave(event)} onTouchMove={leave} onScroll={onScroll}
      onKeyDown={(event) => UPWARDS.has(event.key) && leave(event)}
      onPointerDown={(event) => event.target === scroller.current && leave(event)}>
      {rows.length === 0 && (conversation.isLoaded.value ? <p class="empty">{t("chat.empty")}</p> : <Skeleton />)}
      {problem.value !== null && <Problem reason={problem.value} onRetry={() => void loadOlder()} />}
      <div class={styles["space"]} style={{ height: `${virtualizer.getTotalSize()}px` }}>
        {virtualizer.getVirtualItems().map((item) => {
          const row = rows[item.index];
          if (row === undefined) return null;
          return (
            <article key={item.key} data-index={item.index} class={styles["row"]} ref={virtualizer.measureElement}
              aria-posinset={item.index + 1} aria-setsize={conversation.hasOlder.value ? -1 : rows.length} tabIndex={-1}
              data-kind={row.kind} data-wanted={row.key === wanted?.key} style={{ transform: `translateY(${item.start}px)` }}>
              <RowView row={row} version={row.version} page={page} conversation={conversation} />
            </article>
          );
        })}
      </div>
      {!isAtEnd.current && distanceOf(scroller.current) > NEAR_PX && (
        <button type="button" class={styles["latest"]} onClick={toEnd}>
          {news > 0 ? plural("chat.new", news) : t("chat.latest")}
        </button>
      )}
    </div>
  );
}

function distanceOf(place: HTMLElement | null): number {
  return place === null ? 0 : place.scrollHeight - place.scrollTop - place.clientHeight;
}

function useVirtualizer(rows: readonly Shown[], scroller: { current: HTMLDivElement | null }): List {
  const moved: Signal<number> = useSignal(0);
  const options: VirtualizerOptions<HTMLDivElement, HTMLElement> = {
    count: rows.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => ESTIMATE_PX,
    getItemKey: (index) => rows[index]?.key ?? index,
    scrollToFn: elementScroll,
    observeElementRect,
    observeElementOffset,
    measureElement,
    overscan: 6,
    gap: 8,
    paddingStart: 16,
    paddingEnd: 16,
    anchorTo: "end",
    onChange: () => (moved.value += 1),
  };
  const virtualizer = useMemo(() => new Virtualizer(options), []);
  virtualizer.setOptions(options);
  moved.value;
  useLayoutEffect(() => virtualizer._didMount(), []);
  useLayoutEffect(() => virtualizer._willUpdate());
  return virtualizer;
}

/** Go to where somebody was reading, once what lies there has been loaded; it says when that is over. */
function useRestoredPlace(
  page: Console, conversation: Conversation, virtualizer: List, isAtEnd: { current: boolean },
): { readonly current: boolean } {
  const isLoaded = conversation.isLoaded.value;
  const isRestored = useRef(false);
  useEffect(() => {
    if (!isLoaded) return undefined;
    let isGone = false;
    const find = async () => {
      const place = await page.reading.find(conversation.sessionId);
      if (place === null || isGone) return;
      for (let pages = 0; pages < MAX_PAGES_BACK && conversation.hasOlder.value; pages += 1) {
        if ((conversation.transcript.rows[0]?.seq ?? 0) <= place.seq) break;
        await conversation.older();
      }
      const rows = shown(conversation.transcript.rows, conversation.unfolded.value);
      const index = rows.findIndex((row) => row.key === place.key || row.seq > place.seq);
      if (index < 0 || isGone) return;
      isAtEnd.current = false;
      await arrive(index);
    };
    // Rows that have just come are drawn and measured while we are on our way.
    const arrive = async (index: number) => {
      for (let frames = 0; frames < MAX_FRAMES; frames += 1) {
        await new Promise(requestAnimationFrame);
        if (isGone || virtualizer.getVirtualItemForOffset(virtualizer.scrollOffset ?? 0)?.index === index) return;
        virtualizer.scrollToIndex(index, { align: "start" });
      }
    };
    void find().catch(() => undefined).finally(() => (isRestored.current = true));
    return () => (isGone = true);
  }, [isLoaded]);
  return isRestored;
}
