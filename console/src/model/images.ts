/** Pictures for a prompt: what was pasted, dropped or chosen, as data: URLs. */

const TYPES = new Set(["image/png", "image/jpeg", "image/gif", "image/webp"]);

/** Those of the files that agents take, and the names of the others. */
export async function imagesOf(files: Iterable<File>): Promise<{ images: string[]; others: string[] }> {
  const all = [...files];
  const images = await Promise.all(all.filter((file) => TYPES.has(file.type)).map(asUrl));
  return { images, others: all.filter((file) => !TYPES.has(file.type)).map((file) => file.name) };
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
