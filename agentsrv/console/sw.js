/* The page's shell, so that it opens without a network: its files are kept, nothing of what the server says ever is. */

const CACHE = "shell-8aea93fcedd5";
const FILES = ["chunk-QCE2AT7Y.js","chunk-SQE76S5B.js","highlight-KRLUTOAC.js","icon.svg","main-DI52O5QA.js","main-WBS6L6SL.css","manifest.webmanifest","screen-WRX6Z3VU.js"];
/* Scripts are asked for with other headers than those that the answer varies by: it is the same file. */
const ANY = { ignoreVary: true };

addEventListener("install", (event) => event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(["./", ...FILES]))));

addEventListener("activate", (event) => event.waitUntil(forgetOthers()));

addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  const scope = new URL("./", location.href);
  if (event.request.method !== "GET" || url.origin !== scope.origin || !url.pathname.startsWith(scope.pathname)) return;
  const name = url.pathname.slice(scope.pathname.length);
  if (name === "" || name === "index.html") event.respondWith(fetch(event.request).catch(() => caches.match(scope, ANY)));
  else if (FILES.includes(name)) event.respondWith(caches.match(event.request, ANY).then((kept) => kept ?? fetch(event.request)));
});

async function forgetOthers() {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name.startsWith("shell-") && name !== CACHE).map((name) => caches.delete(name)));
}
