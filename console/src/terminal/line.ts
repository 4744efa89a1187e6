/** The line to a terminal of the server: its bytes, both ways, and again after a break; the terminal goes on meanwhile. */

import { type Api, ApiError } from "../api/http.ts";

const PAUSES_MS = { first: 300, longest: 5_000 };
const DEPLOYMENT = "console";

export type LineState = { is: "connecting" | "open" } | { is: "ended"; exitCode: number | null; signal: string | null } | { is: "refused"; reason: unknown };

export interface Wanted {
  terminalId: string;
  deploymentId?: string;
  cwd?: string;
}

export class Line {
  private socket: WebSocket | null = null;
  private isClosed = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private pause = PAUSES_MS.first;
  private readonly bytes = new TextEncoder();

  constructor(
    private readonly api: Api,
    private readonly wanted: Wanted,
    private readonly size: () => { cols: number; rows: number },
    private readonly onOutput: (data: Uint8Array) => void,
    private readonly onState: (state: LineState) => void,
  ) {}

  async open(): Promise<void> {
    this.onState({ is: "connecting" });
    try {
      const body = { deploymentId: DEPLOYMENT, ...this.wanted };
      const { token } = await this.api.post<{ token: string }>("terminal/token", body);
      if (!this.isClosed) this.connect(token);
    } catch (reason) {
      if (reason instanceof ApiError && reason.status < 500 && reason.status !== 429) this.onState({ is: "refused", reason });
      else this.again();
    }
  }

  send(text: string): void {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(this.bytes.encode(text));
  }

  resize(cols: number, rows: number): void {
    this.say({ type: "resize", cols, rows });
  }

  /** End the shell and all that it started. */
  end(): void {
    this.say({ type: "close" });
  }

  /** Look at it no more; it goes on. */
  close(): void {
    this.isClosed = true;
    clearTimeout(this.timer);
    this.socket?.close();
  }

  private say(message: object): void {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  private connect(token: string): void {
    const { cols, rows } = this.size();
    const url = new URL(`${this.api.root}ws/terminal?encoding=binary&cols=${cols}&rows=${rows}`, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    // As a subprotocol: an address would stand in logs.
    const socket = (this.socket = new WebSocket(url, ["terminal", token]));
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }: MessageEvent<ArrayBuffer | string>) =>
      typeof data === "string" ? this.told(JSON.parse(data) as Record<string, unknown>) : this.onOutput(new Uint8Array(data));
    socket.onclose = () => this.again();
  }

  private told(message: Record<string, unknown>): void {
    if (message["type"] === "info") {
      this.pause = PAUSES_MS.first;
      this.onState({ is: "open" });
    } else if (message["type"] === "close") {
      this.isClosed = true;
      const [exitCode, signal] = [message["exitCode"], message["signal"]];
      this.onState({ is: "ended", exitCode: exitCode as number | null, signal: signal as string | null });
    }
  }

  private again(): void {
    if (this.isClosed) return;
    this.onState({ is: "connecting" });
    this.timer = setTimeout(() => void this.open(), this.pause);
    this.pause = Math.min(this.pause * 2, PAUSES_MS.longest);
  }
}
