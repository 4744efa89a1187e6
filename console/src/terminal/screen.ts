/** xterm.js and what it needs to live under this page's policy. Loaded when somebody opens a terminal. */

import { FitAddon } from "@xterm/addon-fit";
import { type ITheme, Terminal } from "@xterm/xterm";

export interface Screen {
  write(data: string | Uint8Array): void;
  onInput(take: (data: string) => void): void;
  onResize(take: (cols: number, rows: number) => void): void;
  /** Fill the place anew; its size in letters. */
  fit(): { cols: number; rows: number };
  focus(): void;
  setTheme(): void;
  dispose(): void;
}

export function openScreen(place: HTMLElement): Screen {
  const terminal = new Terminal({
    allowProposedApi: false,
    cursorBlink: false,
    fontFamily: 'ui-monospace, "SF Mono", "Cascadia Mono", "Liberation Mono", Menlo, monospace',
    fontSize: 13,
    screenReaderMode: true,
    scrollback: 5000,
    theme: themeOf(),
  });
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  withSheets(() => terminal.open(place));
  fit.fit();
  return {
    write: (data) => terminal.write(data),
    onInput: (take) => void terminal.onData(take),
    onResize: (take) => void terminal.onResize(({ cols, rows }) => take(cols, rows)),
    fit: () => {
      fit.fit();
      return { cols: terminal.cols, rows: terminal.rows };
    },
    focus: () => terminal.focus(),
    setTheme: () => (terminal.options.theme = themeOf()),
    dispose: () => terminal.dispose(),
  };
}

/** The page's own colours, as they are now. */
function themeOf(): ITheme {
  const probe = document.body.appendChild(document.createElement("i"));
  const colour = (name: string) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const [ink, soft, ground, accent] = [colour("ink"), colour("soft"), colour("ground"), colour("accent")];
  const [red, green, yellow, magenta] = [colour("bad"), colour("good"), colour("warn"), colour("violet")];
  const selectionBackground = colour("line");
  probe.remove();
  return {
    background: ground, foreground: ink, cursor: accent, selectionBackground,
    black: soft, red, green, yellow, blue: accent, magenta, cyan: accent, white: ink,
    brightBlack: soft, brightRed: red, brightGreen: green, brightYellow: yellow, brightBlue: accent,
    brightMagenta: magenta, brightCyan: accent, brightWhite: ink,
  };
}

/**
 * While `work` runs, new <style> elements put what they are given into sheets of their own: `style-src 'self'` would
 * drop what stands in the element, and with it all colours. xterm makes its elements when it is opened.
 */
function withSheets(work: () => void): void {
  const create = document.createElement.bind(document);
  document.createElement = ((tag: string) => (tag === "style" ? styleElement(create) : create(tag))) as typeof document.createElement;
  try {
    work();
  } finally {
    // What the document has by its kind is there again.
    delete (document as { createElement?: unknown }).createElement;
  }
}

function styleElement(create: (tag: string) => HTMLElement): HTMLElement {
  const sheet = new CSSStyleSheet();
  // The policy looks at an empty <style> too. This one shows nothing, and is no style.
  const element = create("template");
  const remove = element.remove.bind(element);
  Object.defineProperty(element, "textContent", { set: (text: string) => sheet.replaceSync(text) });
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((one) => one !== sheet);
    remove();
  };
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  return element;
}
