/* An agent that speaks ACP, as fast as a machine can: each prompt gets one message. Messages are a line each. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char line[1 << 20];

int main(void)
{
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    while (fgets(line, sizeof line, stdin)) {
        char id[128] = "";
        const char *at = strstr(line, "\"id\":\"");
        if (!at || sscanf(at + 6, "%127[^\"]", id) != 1)
            continue;
        if (strstr(line, "\"session/prompt\"")) {
            printf("{\"jsonrpc\":\"2.0\",\"method\":\"session/update\",\"params\":{\"sessionId\":\"c\",\"update\":"
                   "{\"sessionUpdate\":\"agent_message_chunk\",\"content\":{\"type\":\"text\",\"text\":\"hello\"}}}}\n");
            printf("{\"jsonrpc\":\"2.0\",\"id\":\"%s\",\"result\":{\"stopReason\":\"end_turn\"}}\n", id);
        } else if (strstr(line, "\"session/new\"")) {
            printf("{\"jsonrpc\":\"2.0\",\"id\":\"%s\",\"result\":{\"sessionId\":\"c\"}}\n", id);
        } else {
            printf("{\"jsonrpc\":\"2.0\",\"id\":\"%s\",\"result\":{\"protocolVersion\":1,\"agentCapabilities\":{}}}\n", id);
        }
        fflush(stdout);
    }
    return 0;
}
