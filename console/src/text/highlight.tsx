/** Source with its colours: a tree of words, never HTML. Loaded when somebody looks at a file. */

import { createLowlight } from "lowlight";
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import cpp from "highlight.js/lib/languages/cpp";
import css from "highlight.js/lib/languages/css";
import dockerfile from "highlight.js/lib/languages/dockerfile";
import go from "highlight.js/lib/languages/go";
import ini from "highlight.js/lib/languages/ini";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import makefile from "highlight.js/lib/languages/makefile";
import markdown from "highlight.js/lib/languages/markdown";
import python from "highlight.js/lib/languages/python";
import ruby from "highlight.js/lib/languages/ruby";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import type { ComponentChildren } from "preact";
import { visible } from "./visible.ts";

const lowlight = createLowlight({
  bash, c, cpp, css, dockerfile, go, ini, java, javascript, json, makefile, markdown, python, ruby, rust, sql, typescript, xml, yaml,
});
const NAMES: Record<string, string> = {
  sh: "bash", zsh: "bash", h: "c", cc: "cpp", hpp: "cpp", toml: "ini", cfg: "ini", conf: "ini", env: "ini", jsx: "javascript",
  mjs: "javascript", cjs: "javascript", js: "javascript", tsx: "typescript", ts: "typescript", mts: "typescript", md: "markdown",
  py: "python", pyi: "python", rb: "ruby", rs: "rust", html: "xml", svg: "xml", yml: "yaml", jsonl: "json", mk: "makefile",
};

type Node = ReturnType<typeof lowlight.highlight>["children"][number];

/** The lines of a source; null for what nobody has colours for. */
export function highlighted(text: string, name: string): ComponentChildren[][] | null {
  const language = languageOf(name);
  if (language === null) return null;
  const lines: ComponentChildren[][] = [[]];
  for (const node of lowlight.highlight(language, text).children) add(node, lines, "");
  return lines;
}

function languageOf(name: string): string | null {
  const word = name.toLowerCase();
  const ending = word.slice(word.lastIndexOf(".") + 1);
  return [NAMES[ending], ending, word].find((one) => one !== undefined && lowlight.registered(one)) ?? null;
}

/** A word may go over the end of a line: it is one in each. */
function add(node: Node, lines: ComponentChildren[][], classes: string): void {
  if (node.type === "text") {
    node.value.split("\n").forEach((part, index) => {
      if (index > 0) lines.push([]);
      if (part !== "") lines.at(-1)?.push(classes === "" ? visible(part) : <span class={classes}>{visible(part)}</span>);
    });
  } else if (node.type === "element") {
    const own = node.properties["className"];
    const inner = Array.isArray(own) ? own.join(" ") : classes;
    for (const child of node.children) add(child as Node, lines, inner);
  }
}
