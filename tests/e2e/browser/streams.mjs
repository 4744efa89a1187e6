// Reads one event stream with the library that is named, as its own documentation shows it, and prints what it gets:
// node streams.mjs '{"library": ..., "url": ..., "headers": {...}, "body": ...}', a line [id, data] for each message.

import { fetchEventSource } from "@microsoft/fetch-event-source";
import polyfill from "event-source-polyfill";
import { EventSource } from "eventsource";
import { createEventSource } from "eventsource-client";
import { EventSourceParserStream } from "eventsource-parser/stream";

const { library, url, headers, body } = JSON.parse(process.argv[2]);
console.error = () => {}; // event-source-polyfill tells of each cut

/** Print a message; is it the last one? */
function take(id, data) {
  process.stdout.write(`${JSON.stringify([id, data])}\n`);
  return data !== "" && JSON.parse(data).done === true;
}

/** What both classes named EventSource do. */
function listen(source) {
  source.onmessage = ({ lastEventId, data }) => take(lastEventId, data) && source.close();
}

const libraries = {
  async "@microsoft/fetch-event-source"() {
    globalThis.window = globalThis;
    globalThis.document = { addEventListener() {}, removeEventListener() {} };
    const stop = new AbortController();
    const onmessage = ({ id, data }) => take(id, data) && stop.abort();
    const options = { method: "POST", body, headers, onmessage, openWhenHidden: true, signal: stop.signal };
    await fetchEventSource(url, options);
  },

  "event-source-polyfill"() {
    listen(new polyfill.EventSourcePolyfill(url, { headers }));
  },

  eventsource() {
    const withKey = (input, init) => fetch(input, { ...init, headers: { ...init.headers, ...headers } });
    listen(new EventSource(url, { fetch: withKey }));
  },

  "eventsource-client"() {
    const onMessage = ({ id, data }) => take(id, data) && source.close();
    const source = createEventSource({ url, method: "POST", body, headers, onMessage });
  },

  async "eventsource-parser"() {
    for (let last, isOver = false; !isOver; ) {
      try {
        const answer = await fetch(url, { headers: last ? { ...headers, "Last-Event-ID": last } : headers });
        const messages = answer.body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
        for await (const { id, data } of messages) {
          last = id ?? last;
          isOver = take(id, data);
        }
      } catch (error) {
        if (!["terminated", "fetch failed"].includes(error.message)) throw error; // what a cut looks like
      }
    }
  },
};

await libraries[library]();
