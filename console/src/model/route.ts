/** Where in the page somebody is: behind the `#`, so that no server sees it and any mount prefix works. */

import { signal } from "@preact/signals";

export const TABS = ["chat", "changes", "files", "terminal", "details"] as const;
export type Tab = (typeof TABS)[number];
export const VIEWS = ["inbox", "sessions", "new", "terminals", "usage", "settings", "more"] as const;
export type View = (typeof VIEWS)[number];
export type SessionRoute = { view: "session"; id: string; tab: Tab; path: string; line: number };
export type Route = { view: View } | SessionRoute;

/** `#/s/ID`, `#/s/ID/changes`, `#/s/ID/files/PATH:LINE`, `#/inbox`. */
export const route = (hash: string): Route => {
  const [view, id, part, rest = ""] = hash.replace(/^#\/?/, "").split("/");
  if (view === "s" && id) {
    const [, path = "", line = "0"] = /^(.*?)(?::(\d+))?$/.exec(decode(rest)) ?? [];
    return { view: "session", id: decode(id), tab: TABS.find((tab) => tab === part) ?? "chat", path, line: Number(line) };
  }
  return { view: VIEWS.find((one) => one === view) ?? "sessions" };
};

export const sessionHash = (id: string, tab: Tab = "chat") =>
  `#/s/${encodeURIComponent(id)}${tab === "chat" ? "" : `/${tab}`}`;

/** `line` 0: none. */
export const fileHash = (id: string, path: string, line = 0) =>
  `${sessionHash(id, "files")}/${encodeURIComponent(path)}${line > 0 ? `:${line}` : ""}`;

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The one-time code of an address `#code=...&to=s/ID`; it is taken out of the address at once. */
export function takeCode(): string | null {
  const given = new URLSearchParams(location.hash.slice(1));
  const code = given.get("code");
  if (code !== null) history.replaceState(null, "", `#/${given.get("to") ?? "sessions"}`);
  return code;
}

export class Router {
  readonly route = signal<Route>(route(location.hash));

  start(): void {
    addEventListener("hashchange", () => (this.route.value = route(location.hash)));
  }
}
