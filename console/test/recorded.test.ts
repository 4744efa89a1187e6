import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { Batcher, type Batch, FrameReader } from "../src/api/frames.ts";
import { type Row, Transcript } from "../src/model/transcript.ts";

/** A directory with what the server tells of turns that real agents were recorded in: a stream a file. */
const RECORDED = process.env["RECORDED"] ?? "";
const CUTS = 20;

function batchesOf(stream: string): Batch[] {
  const batcher = new Batcher();
  return new FrameReader().feed(stream).flatMap((frame) => batcher.add(frame) ?? []);
}

function read(batches: readonly Batch[], name = ""): Transcript {
  const transcript = new Transcript(name);
  for (const { id, data } of batches) transcript.apply(id, data);
  return transcript;
}

/** What a person sees of the rows. */
const seen = (rows: readonly Row[]): unknown[] =>
  rows.map(({ key: _, version: __, ...row }) => ("children" in row ? { ...row, children: seen(row.children) } : row));

test("what real agents did has its rows, the same ones wherever its pages are cut", { skip: RECORDED === "" }, () => {
  const names = readdirSync(RECORDED);
  assert.ok(names.length > 100);
  for (const name of names) {
    const batches = batchesOf(readFileSync(join(RECORDED, name), "utf8"));
    const whole = read(batches).rows;
    assert.deepEqual([whole[0]?.kind, whole.at(-1)?.kind], ["user", "done"], name);
    assert.deepEqual(whole.filter((row) => row.kind === "raw"), [], name);
    for (let part = 1; part < CUTS; part += 1) {
      const cut = Math.floor((batches.length * part) / CUTS);
      const later = read(batches.slice(cut));
      later.prepend(read(batches.slice(0, cut), "older"));
      assert.deepEqual(seen(later.rows), seen(whole), `${name} cut at ${cut}`);
    }
  }
});
