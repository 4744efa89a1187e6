import { visible } from "../text/visible.ts";
import { DiffRows } from "./DiffRows.tsx";
import styles from "./AskedInput.module.css";

/** A short value stands beside its name. */
const SHORT = 200;

/** All that a tool is to be called with, never cut: commands as commands, edits as differences, the rest by name. */
export function AskedInput({ input }: { input: Record<string, unknown> }) {
  const { command, file_path: path, old_string: before, new_string: after, content, ...rest } = input;
  const others = Object.entries(rest);
  const isShort = ([, value]: [string, unknown]) => typeof value === "string" && value.length <= SHORT && !value.includes("\n");
  const long = others.filter((one) => !isShort(one));
  return (
    <div class={styles["input"]}>
      {typeof path === "string" && <p><code>{visible(path)}</code></p>}
      {command !== undefined && <pre tabIndex={0}>{visible(asText(command))}</pre>}
      {after !== undefined && <DiffRows before={asText(before)} after={asText(after)} isWhole />}
      {content !== undefined && <DiffRows before="" after={asText(content)} isWhole />}
      {typeof path !== "string" && path !== undefined && <pre tabIndex={0}>{visible(asText(path))}</pre>}
      {others.length > long.length && (
        <dl>{others.filter(isShort).map(([name, value]) => <><dt>{visible(name)}</dt><dd>{visible(String(value))}</dd></>)}</dl>
      )}
      {long.length > 0 && <pre tabIndex={0}>{visible(asText(Object.fromEntries(long)))}</pre>}
    </div>
  );
}

function asText(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2) ?? "";
}
