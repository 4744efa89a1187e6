/** Pictures for a prompt: what was pasted, dropped or chosen, as data: URLs. */

const TYPES = new Set(["image/png", "image/jpeg", "image/gif", "image/webp"]);

/** Those of the files that agents take. */
export async function imagesOf(files: Iterable<File>): Promise<string[]> {
  return Promise.all([...files].filter((file) => TYPES.has(file.type)).map(asUrl));
}

/** The same picture twice is one. */
export function together(before: readonly string[], added: readonly string[]): string[] {
  return [...new Set([...before, ...added])];
}

function asUrl(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
