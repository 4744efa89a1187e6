/**
 * Markdown as elements. marked's lexer alone is used: tokens become nodes, so no HTML string exists and none can be run.
 *
 * While a message is written, all but its last two blocks are done with: they are parsed once and kept.
 */
import { Marked, type Token, type Tokens } from "marked";
import { type ComponentChildren, type VNode } from "preact";
import { Copy } from "../view/Copy.tsx";
import { PathLink } from "../view/PathLink.tsx";
import styles from "./markdown.module.css";

const marked = new Marked({ gfm: true });
const OPEN_BLOCKS = 2;

interface Block {
  raw: string;
  node: ComponentChildren;
}

export class StreamedMarkdown {
  private done: Block[] = [];
  private doneLength = 0;
  private source = "";

  /** The whole text so far; asked again with a longer one, what is behind a settled block is parsed only. */
  render(source: string): ComponentChildren[] {
    if (!source.startsWith(this.source.slice(0, this.doneLength))) {
      this.done = [];
      this.doneLength = 0;
    }
    this.source = source;
    const blocks = marked.lexer(source.slice(this.doneLength)).map((token) => ({ raw: token.raw, node: block(token) }));
    const settled = blocks.slice(0, Math.max(0, blocks.length - OPEN_BLOCKS));
    // Of a source with references any block may still change.
    if (!/^ {0,3}\[[^\]]+\]:/m.test(source)) {
      this.done.push(...settled);
      this.doneLength += settled.reduce((length, one) => length + one.raw.length, 0);
      return [...this.done, ...blocks.slice(settled.length)].map((one) => one.node);
    }
    return [...this.done, ...blocks].map((one) => one.node);
  }
}

export function markdown(source: string): ComponentChildren[] {
  return marked.lexer(source).map(block);
}

function block(token: Token): ComponentChildren {
  switch (token.type) {
    case "heading":
      return heading(token as Tokens.Heading);
    case "paragraph":
      return <p>{inlines(token.tokens)}</p>;
    case "code":
      return <CodeBlock text={String(token["text"])} />;
    case "blockquote":
      return <blockquote>{(token.tokens ?? []).map(block)}</blockquote>;
    case "list":
      return list(token as Tokens.List);
    case "table":
      return table(token as Tokens.Table);
    case "hr":
      return <hr />;
    case "space":
    case "def":
    case "checkbox": // The item has it.
      return null;
    case "text":
      return token.tokens === undefined ? token["text"] : inlines(token.tokens);
    default:
      // HTML is shown as what it is.
      return <p>{token.raw}</p>;
  }
}

function CodeBlock({ text }: { text: string }) {
  return (
    <div class={styles["block"]}>
      <pre class={styles["code"]} tabIndex={0}><code>{text}</code></pre>
      <Copy text={text} class={styles["copy"]} />
    </div>
  );
}

function heading(token: Tokens.Heading): VNode {
  // Below the page's own headings.
  const Level = `h${Math.min(token.depth + 2, 6)}` as "h3" | "h4" | "h5" | "h6";
  return <Level>{inlines(token.tokens)}</Level>;
}

function list(token: Tokens.List): VNode {
  const items = token.items.map((item) => (
    <li class={item.task ? styles["task"] : undefined}>
      {item.task && <input type="checkbox" checked={item.checked === true} disabled aria-label={item.text} />}
      {item.tokens.map(block)}
    </li>
  ));
  return token.ordered ? <ol dir="auto" start={Number(token.start) || 1}>{items}</ol> : <ul dir="auto">{items}</ul>;
}

function table(token: Tokens.Table): VNode {
  return (
    <div class={styles["table"]} tabIndex={0} role="region" aria-label="table">
      <table>
        <thead><tr>{token.header.map(headerCell)}</tr></thead>
        <tbody>{token.rows.map((row) => <tr>{row.map((cell) => <td class={alignment(cell)}>{inlines(cell.tokens)}</td>)}</tr>)}</tbody>
      </table>
    </div>
  );
}

function headerCell(cell: Tokens.TableCell): VNode {
  if (cell.text.trim() === "") return <td />;
  return <th scope="col" class={alignment(cell)}>{inlines(cell.tokens)}</th>;
}

function alignment(cell: Tokens.TableCell): string | undefined {
  return cell.align === "right" || cell.align === "center" ? styles[cell.align] : undefined;
}

function inlines(tokens: Token[] | undefined): ComponentChildren[] {
  return (tokens ?? []).map(inline);
}

function inline(token: Token): ComponentChildren {
  switch (token.type) {
    case "strong":
      return <strong>{inlines(token.tokens)}</strong>;
    case "em":
      return <em>{inlines(token.tokens)}</em>;
    case "del":
      return <del>{inlines(token.tokens)}</del>;
    case "codespan":
      return <code><PathLink text={String(token["text"])} /></code>;
    case "br":
      return <br />;
    case "checkbox":
      return null;
    case "link":
      return link(token as Tokens.Link);
    case "image":
      // Nothing is loaded from elsewhere.
      return link(token as Tokens.Image);
    case "escape":
    case "text":
      return "tokens" in token && token.tokens !== undefined ? inlines(token.tokens) : (token as Tokens.Text).text;
    default:
      return token.raw;
  }
}

function link(token: Tokens.Link | Tokens.Image): ComponentChildren {
  const children = token.tokens?.length ? inlines(token.tokens) : token.text || token.href;
  if (!/^https?:\/\//i.test(token.href)) return children;
  return <a href={token.href} target="_blank" rel="noopener noreferrer">{children}</a>;
}
