/** Paths of the workspace as the server names them, and as links need them. Pure. */

import type { Entry } from "../api/types.ts";

export interface Listing {
  path: string;
  fullPath: string;
  entries: Entry[];
  truncated: boolean;
}

export interface Place {
  /** What names an entry exactly: its URI where its name is not UTF-8, else its absolute path. */
  of(entry: { path: string; uri?: string }): string;
  /** As people say it, from the directory that was asked for. */
  below(path: string): string;
}

/** The server's paths begin at the workspace, which nobody tells: an answer's own path and its full one do. */
export function placeOf({ path, fullPath }: { path: string; fullPath: string }): Place {
  const inside = path === "/" || path === "." ? "" : path.replace(/^\/|\/$/g, "");
  const workspace = inside !== "" && fullPath.endsWith(`/${inside}`) ? fullPath.slice(0, -inside.length - 1) : fullPath;
  return {
    of: (entry) => entry.uri ?? (entry.path.startsWith("/") ? entry.path : `${workspace}/${entry.path}`),
    below: (one) => (inside !== "" && one.startsWith(`${inside}/`) ? one.slice(inside.length + 1) : one),
  };
}

/** What an agent calls a file, as the server finds it. */
export function absolute(path: string, cwd: string): string {
  return path.startsWith("/") || path.startsWith("file:") ? path : `${cwd}/${path}`;
}

export function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}
