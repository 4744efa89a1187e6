/**
 * Text from an agent where it must not deceive: in questions, titles, names.
 *
 * Control characters, bidirectional marks and zero-width characters can make a command look like another one; they are
 * shown as what they are. Line ends and tabs stay, for commands have several lines.
 */
const HIDDEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\u{110bd}\u{110cd}\u{13430}-\u{1343f}\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]/gu;

export function visible(text: string): string {
  return text.replace(HIDDEN, (character) => `⟨U+${hex(character)}⟩`);
}

export function hasHidden(text: string): boolean {
  return text.search(HIDDEN) >= 0;
}

function hex(character: string): string {
  return (character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0");
}
