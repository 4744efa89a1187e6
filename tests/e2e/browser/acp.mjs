// Drives the server as an editor does, with the official SDK over HTTP, and prints what it heard:
// node acp.mjs '{"url": ..., "headers": {...}, "cwd": ..., "prompt": ...}', or to load a session `"load": ..., "until": ...`

import { client, methods } from "@agentclientprotocol/sdk";
import { createHttpStream } from "@agentclientprotocol/sdk/experimental/http-client";

const { url, headers, cwd, prompt, load, until } = JSON.parse(process.argv[2]);
const heard = { said: "", asked: [] };
const editor = client({ name: "a test" })
  .onNotification(methods.client.session.update, ({ params: { update } }) => {
    if (update.sessionUpdate === "agent_message_chunk") heard.said += update.content.text;
  })
  .onRequest(methods.client.session.requestPermission, ({ params }) => {
    heard.asked.push(params.toolCall.title);
    return { outcome: { outcome: "selected", optionId: "allow" } };
  });
await editor.connectWith(createHttpStream(url, { headers }), async (agent) => {
  const { session, initialize } = methods.agent;
  await agent.request(initialize, { protocolVersion: 1, clientCapabilities: {} });
  if (load) {
    await agent.request(session.load, { sessionId: load, cwd, mcpServers: [] });
    // What it says comes on another stream than the answer.
    while (!heard.said.includes(until)) await new Promise((resolve) => setTimeout(resolve, 10));
    return;
  }
  const { sessionId, configOptions } = await agent.request(session.new, { cwd, mcpServers: [] });
  heard.sessionId = sessionId;
  heard.options = configOptions.map(({ id }) => id);
  await agent.request(session.setMode, { sessionId, modeId: "ask" });
  const blocks = [{ type: "text", text: prompt }];
  heard.reason = (await agent.request(session.prompt, { sessionId, prompt: blocks })).stopReason;
});
console.log(JSON.stringify(heard));
