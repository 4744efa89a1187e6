/** Where somebody was reading in each session: kept over a switch, a reload, another size of the window. */

import { keep, recall } from "../api/keep.ts";

const SAVE_MS = 500;

export interface Place {
  /** The row at the top of the window, and the event that it began with. */
  key: string;
  seq: number;
}

export class Reading {
  private readonly places = new Map<string, Place | null>();
  private timer: ReturnType<typeof setTimeout> | undefined;

  /** Null: at the end. */
  async find(sessionId: string): Promise<Place | null> {
    const known = this.places.get(sessionId);
    return known === undefined ? recall<Place>(`place ${sessionId}`) : known;
  }

  note(sessionId: string, place: Place | null): void {
    this.places.set(sessionId, place);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void keep(`place ${sessionId}`, place), SAVE_MS);
  }
}
