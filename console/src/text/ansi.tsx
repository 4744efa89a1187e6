/** What a program wrote to its terminal, as elements: colours and weights; cursor movements and titles are left out. Pure. */

import type { ComponentChildren } from "preact";
import { visible } from "./visible.ts";
import styles from "./ansi.module.css";

/** SGR is kept; other CSI, OSC and two-character escapes go. */
const ESCAPES = /\u001b\[([\d;:]*)m|\u001b\[[\d;:?<=>!]*[ -/]*[@-~]|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|\u001b[PX^_][^\u001b]*(?:\u001b\\)?|\u001b[ -/]*[0-~]/g;
const COLOURS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

interface Style {
  colour: string;
  isBold: boolean;
  isDim: boolean;
  isItalic: boolean;
  isUnderlined: boolean;
}
const PLAIN: Style = { colour: "", isBold: false, isDim: false, isItalic: false, isUnderlined: false };

export function ansi(text: string): ComponentChildren[] {
  const source = overwritten(text);
  const found: ComponentChildren[] = [];
  let style = PLAIN;
  let from = 0;
  for (const match of source.matchAll(ESCAPES)) {
    found.push(piece(source.slice(from, match.index), style));
    if (match[1] !== undefined) style = restyled(style, match[1]);
    from = match.index + match[0].length;
  }
  found.push(piece(source.slice(from), style));
  return found;
}

/** Of a line that was written again and again, such as a progress bar, the last state. */
function overwritten(text: string): string {
  // By hand: an expression that looks for the end of a line from everywhere in it takes hours for a megabyte.
  return text.includes("\r") ? text.split("\n").map(lastState).join("\n") : text;
}

function lastState(line: string): string {
  let end = line.length;
  while (line[end - 1] === "\r") end -= 1;
  return end === 0 ? "" : line.slice(line.lastIndexOf("\r", end - 1) + 1, end);
}

function piece(text: string, style: Style): ComponentChildren {
  if (text === "") return null;
  const names = [
    style.colour, style.isBold && "bold", style.isDim && "dim", style.isItalic && "italic", style.isUnderlined && "underlined",
  ].filter(Boolean).map((name) => styles[name as string]);
  return names.length === 0 ? visible(text) : <span class={names.join(" ")}>{visible(text)}</span>;
}

function restyled(before: Style, parameters: string): Style {
  const style = { ...before };
  const codes = parameters.split(/[;:]/).map(Number);
  for (let index = 0; index < codes.length; index += 1) {
    const code = codes[index] ?? 0;
    if (code === 0) Object.assign(style, PLAIN);
    else if (code === 1) style.isBold = true;
    else if (code === 2) style.isDim = true;
    else if (code === 3) style.isItalic = true;
    else if (code === 4) style.isUnderlined = true;
    else if (code === 22) style.isBold = style.isDim = false;
    else if (code === 23) style.isItalic = false;
    else if (code === 24) style.isUnderlined = false;
    else if (code === 38 || code === 48) index += codes[index + 1] === 5 ? 2 : 4;
    else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) style.colour = COLOURS[code % 10] ?? "";
    else if (code === 39) style.colour = "";
  }
  return style;
}
