/** Words of ours or of the server, in which `commands` stand between backticks. */
export function Prose({ text }: { text: string }) {
  return <>{text.split("`").map((part, index) => (index % 2 === 0 ? part : <code class="command">{part}</code>))}</>;
}
