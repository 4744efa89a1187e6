/** Requests to the server this page came from. Every URL is relative, so any mount prefix or proxy path works. */

export interface Problem {
  path: string;
  message: string;
}

/** An answer that is not 2xx, in the server's own words. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly details: readonly (Problem | string)[] = [],
    readonly requestId: string | null = null,
    readonly retryAfterS: number | null = null,
    readonly body: Record<string, unknown> = {},
  ) {
    super(message);
  }
}

/** No answer at all: the network or the server is away. */
export class Unreachable extends Error {}

export type Query = Record<string, string | number | boolean | undefined | readonly string[]>;

const TIMEOUT_MS = 20_000;
const UPLOAD_TIMEOUT_MS = 600_000;

export interface Listener {
  /** Asked before each request. */
  token(): string | null;
  /** The token is none, or not any more. */
  onUnauthorized(): void;
  /** Resolves when somebody has signed in again. */
  signedIn(): Promise<void>;
  /** Whether the server could write. */
  onStorage(isFull: boolean): void;
}

export class Api {
  /** `root`: where the server's routes begin, with a slash at its end. */
  constructor(
    readonly root: string,
    private readonly page: Listener,
  ) {}

  signedIn(): Promise<void> {
    return this.page.signedIn();
  }

  get<T>(path: string, query: Query = {}): Promise<T> {
    return this.json("GET", path, query);
  }

  post<T>(path: string, body: object): Promise<T> {
    return this.json("POST", path, {}, body);
  }

  put<T>(path: string, body: object): Promise<T> {
    return this.json("PUT", path, {}, body);
  }

  delete<T>(path: string, query: Query = {}): Promise<T> {
    return this.json("DELETE", path, query);
  }

  /** A file's content, as it is. */
  raw(path: string, query: Query, signal: AbortSignal | null = null): Promise<Response> {
    return this.send("GET", path, query, undefined, signal ?? AbortSignal.timeout(TIMEOUT_MS), "*/*");
  }

  /** Send a body that is not JSON: a file, a form with files. `headers`: besides the usual ones. */
  async upload<T>(method: string, path: string, query: Query, body: BodyInit, headers: Record<string, string> = {}): Promise<T> {
    const signal = AbortSignal.timeout(UPLOAD_TIMEOUT_MS);
    const response = await this.send(method, path, query, body, signal, "application/json", headers);
    return (await response.json()) as T;
  }

  /** An event stream, once its head is there. Raises ApiError, Unreachable. */
  stream(path: string, query: Query, signal: AbortSignal): Promise<Response> {
    return this.send("GET", path, query, undefined, signal, "text/event-stream");
  }

  private async json<T>(method: string, path: string, query: Query, body?: object): Promise<T> {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const type: Record<string, string> = body === undefined ? {} : { "Content-Type": "application/json" };
    const text = body === undefined ? undefined : JSON.stringify(body);
    const response = await this.send(method, path, query, text, signal, "application/json", type);
    return (await response.json()) as T;
  }

  private async send(
    method: string,
    path: string,
    query: Query,
    body: BodyInit | undefined,
    signal: AbortSignal,
    accept: string,
    more: Record<string, string> = {},
  ): Promise<Response> {
    const token = this.page.token();
    const headers: Record<string, string> = { Accept: accept, ...more };
    if (token !== null) headers["Authorization"] = `Bearer ${token}`;
    const request: RequestInit = { method, headers, signal, redirect: "error", credentials: "omit", cache: "no-store" };
    if (body !== undefined) request.body = body;
    const response = await fetch(this.root + path + encodeQuery(query), request).catch((reason: unknown) => {
      throw new Unreachable(String(reason));
    });
    if (response.ok && method !== "GET") this.page.onStorage(false);
    if (response.ok) return response;
    // A stale answer must not sign a new token out.
    if (response.status === 401 && token === this.page.token()) this.page.onUnauthorized();
    if (response.status === 507) this.page.onStorage(true);
    throw await asError(response);
  }
}

function encodeQuery(query: Query): string {
  const pairs = Object.entries(query).flatMap(([name, value]) => [value ?? []].flat().map((one) => [name, String(one)]));
  return pairs.length === 0 ? "" : `?${new URLSearchParams(pairs).toString()}`;
}

async function asError(response: Response): Promise<ApiError> {
  const body = (await response.json().catch(() => ({}))) as Record<string, unknown>;
  const retryAfter = Number(response.headers.get("Retry-After") ?? NaN);
  return new ApiError(
    response.status,
    typeof body["code"] === "string" ? body["code"] : "http_error",
    typeof body["error"] === "string" ? body["error"] : response.statusText,
    Array.isArray(body["details"]) ? (body["details"] as (Problem | string)[]) : [],
    response.headers.get("X-Request-Id"),
    Number.isFinite(retryAfter) ? retryAfter : null,
    body,
  );
}

/** A session's or a job's id as one segment of a path. */
export function segment(id: string): string {
  return encodeURIComponent(id);
}
