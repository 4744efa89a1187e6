/** Server-Sent Events as text, cut anywhere, put together again. */

export interface Frame {
  /** Of several frames of one event only the last one has it. */
  id: number | null;
  data: string;
}

/** Events of one number: applied together, or not at all. */
export interface Batch {
  id: number;
  data: string[];
}

export class FrameReader {
  private rest = "";

  /** The frames that `text` completes. Comments and `retry` are none. */
  feed(text: string): Frame[] {
    const parts = (this.rest + text).split("\n\n");
    this.rest = parts.pop() ?? "";
    return parts.flatMap(parseFrame);
  }
}

function parseFrame(text: string): Frame[] {
  let id: number | null = null;
  const data: string[] = [];
  for (const line of text.split("\n")) {
    if (line.startsWith("id: ")) id = Number(line.slice(4));
    else if (line.startsWith("data: ")) data.push(line.slice(6));
  }
  return data.length === 0 ? [] : [{ id, data: data.join("\n") }];
}

/** Holds frames without a number back until the one that has it comes. */
export class Batcher {
  private held: string[] = [];

  add(frame: Frame): Batch | null {
    this.held.push(frame.data);
    if (frame.id === null) return null;
    const batch = { id: frame.id, data: this.held };
    this.held = [];
    return batch;
  }
}
