/** What this browser keeps for the page, in IndexedDB: the token when asked to, drafts, reading positions. */

const DATABASE = "agentsrv-console";
const STORE = "keep";

/** Null when there is nothing, or the browser refuses. */
export async function recall<T>(key: string): Promise<T | null> {
  const found: unknown = await transact("readonly", (store) => store.get(key)).catch(() => null);
  return (found ?? null) as T | null;
}

/** False when the browser refuses (a private window, storage that is full): it then lives in this tab alone. */
export async function keep(key: string, value: unknown): Promise<boolean> {
  return transact("readwrite", (store) => store.put(value, key)).then(
    () => true,
    () => false,
  );
}

export async function forget(key: string): Promise<void> {
  await transact("readwrite", (store) => store.delete(key)).catch(() => undefined);
}

/** All that is kept goes, for who signs out. */
export async function forgetAll(): Promise<void> {
  await transact("readwrite", (store) => store.clear()).catch(() => undefined);
}

async function transact<T>(mode: IDBTransactionMode, ask: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  const database = await asPromise(openRequest());
  try {
    const transaction = database.transaction(STORE, mode);
    const isOver = ended(transaction);
    const [found] = await Promise.all([asPromise(ask(transaction.objectStore(STORE))), isOver]);
    return found;
  } finally {
    database.close();
  }
}

/** Only then it is kept: a disk that is full is found out at the end. */
function ended(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
}

function openRequest(): IDBOpenDBRequest {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE);
  return request;
}

function asPromise<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
