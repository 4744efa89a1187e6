import assert from "node:assert/strict";
import test from "node:test";
import { ApiError } from "../src/api/http.ts";
import { Attempt } from "../src/model/attempt.ts";

for (const status of [429, 503]) {
  test(`${status} with Retry-After is counted down, and tried again at its end`, async ({ mock }) => {
    mock.timers.enable({ apis: ["setInterval"] });
    const attempt = new Attempt();
    const shown: (number | null)[] = [];
    attempt.retryInS.subscribe((left) => void shown.push(left));
    let tries = 0;
    const done = attempt.run(() => {
      tries += 1;
      return tries === 1 ? Promise.reject(new ApiError(status, "busy", "not now", [], null, 3)) : Promise.resolve();
    });
    for (let second = 0; second < 3; second += 1) {
      await new Promise(setImmediate);
      assert.equal(tries, 1);
      mock.timers.tick(1000);
    }

    assert.equal(await done, true);
    assert.deepEqual([tries, shown], [2, [null, 3, 2, 1, null]]);
  });
}
