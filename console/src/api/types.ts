/** What the server answers, as far as this page looks at it. docs/http-api.md is the whole. */

export interface Session {
  id: string;
  name: string | null;
  agent: string;
  cwd: string;
  model: string | null;
  updatedAt: string;
  isStreaming: boolean;
  activeTaskId: string | null;
  worktree: string | null;
  status?: "idle" | "queued" | "running" | "waiting" | "failed";
  preview?: string | null;
  doing?: string | null;
  costUsd?: number | null;
  lastJob?: Job;
  queued?: number;
  archivedAt?: string | null;
  createdAt?: string;
  permissionMode?: string | null;
  settingSources?: string[] | null;
  forkedFrom?: { sessionId: string; eventId: number } | null;
}

export interface Job {
  taskId: string;
  sessionId: string;
  status: string;
  createdAt: string;
  startedAt?: string;
  finishedAt?: string;
  error?: string;
  code?: string;
  firstEventId: number;
  lastEventId: number;
  usage?: Record<string, unknown>;
  costUsd?: number;
}

export interface MessagePage {
  messages: unknown[];
  eventIds: number[];
  firstEventId: number;
  lastEventId: number;
  /** Up to this event there are no other messages behind the last one. */
  upToEventId: number;
}

export interface Queued {
  taskId: string;
  position: number;
  prompt: string;
  createdAt: string;
}

export interface Entry {
  name: string;
  path: string;
  type: "file" | "directory" | "symlink" | "other";
  size?: number;
  modifiedAt?: string;
  ignored?: boolean;
  denied?: boolean;
  uri?: string;
}

export interface Match {
  path: string;
  line: number;
  column: number;
  text: string;
}

export interface Terminal {
  terminalId: string;
  deploymentId: string;
  shell: string;
  cwd: string;
  cols: number;
  rows: number;
  clients: number;
  createdAt: string;
}

export interface Device {
  id: string;
  name: string;
  scopes: string[];
  createdAt: string;
  usedAt: string | null;
  expiresAt: string | null;
}

export interface Question {
  requestId: string;
  taskId: string;
  sessionId: string;
  kind: "permission" | "question";
  tool: string;
  title: string;
  input: Record<string, unknown>;
  options: { decision: "allow" | "deny"; remember?: "session" }[];
  createdAt?: string;
  expiresAt?: string | null;
}

export interface Agent {
  name: string;
  available: boolean;
  usable: boolean;
  problem: string | null;
  version: string | null;
  path: string | null;
  credentials: string[];
  modelEfforts: Record<string, string[]>;
  models: string[];
  efforts: string[];
  permissionModes: string[];
}

export interface Prompt {
  session_id: string;
  prompt: string;
  agent?: string;
  cwd?: string;
  model?: string;
  effort?: string;
  permission_mode?: string;
  use_worktree?: boolean;
  images?: string[];
  if_busy?: "reject" | "queue" | "steer";
  message_id: string;
  background: true;
}

export interface DiffSummary {
  files: DiffFile[];
  truncated: boolean;
}

export interface DiffFile {
  oldPath: string | null;
  newPath: string | null;
  status: "modified" | "added" | "deleted" | "renamed" | "copied" | "typechange";
  additions: number;
  deletions: number;
  binary: boolean;
  conflicted: boolean;
  truncated: boolean;
  unreadable: boolean;
  hunks: DiffHunk[];
}

export interface DiffHunk {
  oldStart: number;
  oldLines: number;
  newStart: number;
  newLines: number;
  lines: { type: "context" | "add" | "del"; content: string; oldLine: number | null; newLine: number | null }[];
}
