/** Builds the page into ../agentsrv/console, or into the directory that is named: `node build.mjs [DIRECTORY]`. */

import { createHash } from "node:crypto";
import { cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import * as esbuild from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = process.argv[2] ?? join(here, "../agentsrv/console");

const { metafile } = await esbuild.build({
  absWorkingDir: here,
  entryPoints: ["src/main.tsx"],
  outdir: target,
  write: false,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  legalComments: "none",
  metafile: true,
  splitting: true,
}).then(async (result) => {
  await rm(target, { recursive: true, force: true });
  await mkdir(target, { recursive: true });
  for (const file of result.outputFiles) await keep(basename(file.path), file.contents);
  return result;
});

const outputs = Object.keys(metafile.outputs).map((path) => basename(path));
const one = (pattern) => outputs.find((name) => pattern.test(name));
const page = await readFile(join(here, "src/index.html"), "utf8");
const main = one(/^main-.*\.js$/);
await keep("index.html", page.replace("{{css}}", one(/^main-.*\.css$/)).replace("{{preloads}}", preloads()).replace("{{js}}", main));
for (const name of ["icon.svg", "icon-maskable.svg", "manifest.webmanifest"]) await cp(join(here, "src", name), join(target, name));
await keep("sw.js", await serviceWorker());
await keep("licenses.txt", await licenses(bundled()));

/** What the first script needs is fetched beside it, not once it has been read. */
function preloads() {
  const [, { imports }] = Object.entries(metafile.outputs).find(([path]) => basename(path) === main);
  const needed = imports.filter(({ kind }) => kind === "import-statement").map(({ path }) => basename(path));
  return needed.map((name) => `<link rel="modulepreload" href="${name}">\n`).join("");
}

/** It changes whenever one of the files that it keeps does. */
async function serviceWorker() {
  const files = [...outputs.filter((name) => /\.(js|css)$/.test(name)), "icon.svg", "manifest.webmanifest"].sort();
  const version = createHash("sha256").update(files.join()).digest("hex").slice(0, 12);
  const source = await readFile(join(here, "src/sw.js"), "utf8");
  return source.replace("{{version}}", version).replace("{{files}}", JSON.stringify(files));
}

/** A file, and beside it the same compressed, for who asks for that. */
async function keep(name, contents) {
  await writeFile(join(target, name), contents);
  await writeFile(join(target, `${name}.gz`), gzipSync(contents, { level: 9 }));
}

/** The packages that something in the page comes from. */
function bundled() {
  const names = Object.keys(metafile.inputs).map((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]);
  return [...new Set(names.filter(Boolean))].sort();
}

async function licenses(packages) {
  const texts = packages.map(async (name) => {
    const root = join(here, "node_modules", name);
    const { version, license } = JSON.parse(await readFile(join(root, "package.json"), "utf8"));
    const file = (await readdir(root)).find((one) => /^licen[cs]e(\.|$)/i.test(one));
    const text = file === undefined ? "" : await readFile(join(root, file), "utf8");
    return `${name} ${version} (${license})\n\n${text.trim()}\n`;
  });
  return (await Promise.all(texts)).join(`\n${"-".repeat(80)}\n\n`);
}
