/**
 * Runs the unit tests: `node test.mjs [DIRECTORY]`, which has recorded streams. Node does not read TypeScript, so they are
 * bundled first.
 */

import { spawnSync } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as esbuild from "esbuild";

const out = await mkdtemp(join(tmpdir(), "console-test-"));
try {
  const tests = (await readdir("test")).filter((name) => /\.test\.tsx?$/.test(name));
  await esbuild.build({
    entryPoints: tests.map((name) => join("test", name)),
    outdir: out,
    outExtension: { ".js": ".mjs" },
    bundle: true,
    format: "esm",
    platform: "node",
    jsx: "automatic",
    jsxImportSource: "preact",
    logLevel: "warning",
  });
  const built = (await readdir(out)).filter((name) => name.endsWith(".test.mjs")).map((name) => join(out, name));
  process.exitCode = spawnSync(process.execPath, ["--test", ...built], { stdio: "inherit", env: { ...process.env, RECORDED: process.argv[2] ?? "" } }).status ?? 1;
} finally {
  await rm(out, { recursive: true });
}
