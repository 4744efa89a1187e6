#!/bin/sh
# What the container runs: makes the volume ready, starts what the server needs and the server, restarts what dies,
# and ends all of it in order at SIGTERM. One line on stderr per step. Exit code: the server's; 78: it cannot start.
#
# Started as root (the default), the server is appuser, agents and terminals are AGENT_USER (agent), and Redis and the
# LLM helper have users of their own. Started as another user (`docker run --user`), all parts are that user, and SSH
# is not there.
#
# No secret is written to disk. What is inside the volume may have been put there by an agent: no link in it is
# followed as root.

# shellcheck disable=SC2317,SC2329  # `keep` calls functions by their names

set -eu

APP_HOME="${APP_HOME:-/home/appuser}"
RUN_DIR="${RUN_DIR:-/run/agentsrv}"
ETC_DIR="${ETC_DIR:-/etc/agentsrv}"
CREDENTIALS_FILE="${CREDENTIALS_FILE:-/app/claude-credentials.json}"
CGROUPS="${CGROUPS:-/sys/fs/cgroup}"
OWN_CGROUP="${OWN_CGROUP:-/proc/self/cgroup}"
LITELLM="${LITELLM:-/opt/llm/bin/litellm}"
LLM_PORT="${LLM_PORT:-4141}"

EX_CONFIG=78
MIN_MEMORY_MB=768     # the server, Redis and one agent
HELPER_MEMORY_MB=1280 # and the LLM helper
STEADY_S="${STEADY_S:-30}" # what has run for so long was well
MAX_QUICK_DEATHS="${MAX_QUICK_DEATHS:-5}"
MAX_PAUSE_S=60
STOP_GRACE_S=2        # for Redis, the helper and sshd; the server has its own, SHUTDOWN_GRACE

main() {
    hold_port
    choose_users
    prepare_run_directory
    prepare_volume
    import_claude_credentials
    skip_claude_onboarding
    pass_github_token
    look_at_memory
    start_redis
    start_helper
    start_ssh
    run_until_stopped
}

# -- words

say() {
    echo "entrypoint: $*" >&2
}

fail() {
    say "$*"
    exit "$EX_CONFIG"
}

is_root() {
    [ "$(id -u)" = 0 ]
}

is_true() {
    case "$1" in [Tt][Rr][Uu][Ee] | 1 | [Yy][Ee][Ss] | [Oo][Nn]) return 0 ;; esac
    return 1
}

# become USER COMMAND...: this process runs the command from now on, as USER where that is possible.
become() {
    user=$1
    shift
    if is_root; then exec setpriv --reuid "$user" --regid "$user" --init-groups -- "$@"; fi
    exec "$@"
}

# as USER COMMAND...: run it as that user, and come back.
as() {
    (become "$@")
}

new_secret() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

# Whom agents and terminals are. The server reads AGENT_USER; where it is no other user, there is nothing to change.
choose_users() {
    agents=appuser
    is_root || return 0
    export AGENT_USER="${AGENT_USER:-agent}"
    agents=$AGENT_USER
    id "$agents" >/dev/null 2>&1 || fail "users: AGENT_USER is $agents, which is no user of the image"
}

# -- the port

# This process listens, and hands the socket to each server that it starts, as systemd does: while there is none, no
# agent can take its port, and who calls then waits. Loopback addresses, names and Unix sockets are the server's to open.
# A shell cannot listen: Python does, and becomes this script again.
hold_port() {
    [ -z "${LISTEN_FDS:-}" ] || return 0
    case "${HOST:-}" in '' | *[!0-9a-f.:]* | 127.* | ::1) return 0 ;; esac
    LISTEN_FDS=1 exec python3 -I -S -c "$LISTEN" "$0" "$HOST" "${PORT:-3000}" "$EX_CONFIG"
}

LISTEN='
import os, socket, sys
script, host, port, ex_config = sys.argv[1:]
try:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, int(port)), family=family, backlog=1024)
except (OSError, ValueError, OverflowError) as exc:
    print(f"entrypoint: port: cannot listen on HOST={host} PORT={port}: {exc}", file=sys.stderr)
    sys.exit(int(ex_config))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.execv(script, [script])
'

# From now on callers are refused.
release_port() {
    exec 3<&-
}

# -- the volume

prepare_run_directory() {
    mkdir -p "$RUN_DIR" 2>/dev/null || RUN_DIR=$(mktemp -d) || fail "run: no place for sockets; mount a tmpfs at /run"
    chmod 711 "$RUN_DIR"
}

prepare_volume() {
    export HOME="$APP_HOME" STATE_DIR="${STATE_DIR:-$APP_HOME/.agentsrv}"
    database="${DATABASE_PATH:-$HOME/data/agent_ts.db}"
    if is_root; then share_volume; fi
    for directory in "$(dirname "$database")" "$STATE_DIR"; do
        server_directory "$directory"
    done
    as "$agents" mkdir -p "$HOME/.claude" "${CODEX_HOME:-$HOME/.codex}" 2>/dev/null \
        || fail "volume: user $(as "$agents" id -u) cannot write to $HOME; give the volume to that user"
    if [ -e "$database" ]; then say "volume: $HOME, with a database"; else say "volume: $HOME, no database yet"; fi
}

# Its top belongs to root: agents may add to it, and can neither remove nor rename what the server has in it. It becomes
# so last, so that giving the rest away begins anew when it was cut short.
share_volume() {
    mkdir -p "$HOME"
    as appuser true || fail "users: cannot become appuser; the container needs CHOWN, SETUID, SETGID and KILL"
    group=$(id -gn "$agents")
    [ "$(stat -c %U:%G:%a "$HOME")" != "root:$group:1775" ] || return 0
    say "volume: belonged to user $(stat -c %u "$HOME"), its files are given to $agents; a large one takes a while"
    find "$HOME" -xdev -mindepth 1 -exec chown -h "$agents:" {} + || say "volume: not all files could be given away"
    server_directory "$(dirname "$database")"
    server_directory "$STATE_DIR"
    if ! { chown "root:$group" "$HOME" && chmod 1775 "$HOME"; }; then
        say "volume: $HOME keeps its owner, so that agents may rename what is in it"
    fi
}

# server_directory PATH: a directory in which the server can write, and of whose files agents see nothing.
server_directory() {
    [ ! -L "$1" ] || fail "volume: $1 is a link; name the directory itself"
    as appuser mkdir -p "$1" 2>/dev/null || mkdir -p "$1" 2>/dev/null || true
    if is_root && ! as appuser test -w "$1"; then find "$1" -xdev -exec chown -h appuser: {} +; fi
    as appuser test -w "$1" || fail "volume: user $(as appuser id -u) cannot write to $1; give it to that user"
    as appuser chmod go-rw "$1" 2>/dev/null || true
    as appuser find "$1" -maxdepth 1 -type f -user "$(as appuser id -u)" -exec chmod go= {} +
}

# -- the agents

# new_file PATH: stdin becomes the file, unless there is anything of this name.
new_file() {
    # shellcheck disable=SC2016  # $1 is for the inner shell
    as "$agents" sh -c 'umask 077 && [ ! -e "$1" ] && [ ! -L "$1" ] && cat >"$1"' sh "$1"
}

import_claude_credentials() {
    is_true "${USE_CLAUDE_CREDENTIALS:-}" && [ -f "$CREDENTIALS_FILE" ] || return 0
    if new_file "$HOME/.claude/.credentials.json" <"$CREDENTIALS_FILE"; then
        say "claude: credentials taken from $CREDENTIALS_FILE"
    else
        say "claude: there are credentials already, $CREDENTIALS_FILE is left alone"
    fi
}

skip_claude_onboarding() {
    echo '{"hasCompletedOnboarding": true}' | new_file "$HOME/.claude.json" || true
}

# Git and gh find it in the environment: no file has it.
pass_github_token() {
    [ -n "${GITHUB_TOKEN:-}" ] || return 0
    export AGENT_ENV="${AGENT_ENV:+$AGENT_ENV,}GITHUB_TOKEN"
    say "git: agents and terminals use GITHUB_TOKEN for github.com"
}

# -- memory

# The limit in MB; nothing where there is none. That is `max` in cgroup v2; in v1 it is a number that no machine has.
# A container sees its own cgroup at the top, unless it was given no namespace for it: then v2 has it further down.
memory_limit_mb() {
    own=$(sed -n 's/^0:://p' "$OWN_CGROUP" 2>/dev/null || true)
    limit=$(cat "$CGROUPS$own/memory.max" "$CGROUPS/memory/memory.limit_in_bytes" 2>/dev/null | head -n 1)
    case "$limit" in '' | *[!0-9]*) return ;; esac
    limit=$((limit / 1048576))
    [ "$limit" -gt 1000000000 ] || echo "$limit"
}

look_at_memory() {
    memory_mb=$(memory_limit_mb)
    [ "${memory_mb:-$MIN_MEMORY_MB}" -ge "$MIN_MEMORY_MB" ] \
        || say "memory: a limit of $memory_mb MB is too small for an agent beside the server; give it $MIN_MEMORY_MB MB"
}

# -- keeping things running

# keep NAME COMMAND...: run a command of this script, again when it ends, after a pause that grows while it dies quickly.
# Ends at TERM, with what it runs. For the server also when it says that it cannot start (78), and when it does not stay.
keep() {
    name=$1
    shift
    child='' stopping='' deaths=0
    trap 'stopping=1; stop_child' TERM
    while :; do
        began=$(date +%s)
        if [ "$name" = server ]; then "$@" & else "$@" 3<&- & fi
        child=$!
        [ -z "$stopping" ] || stop_child
        wait_for_child
        [ -z "$stopping" ] || exit "$code"
        count_death
        [ "$name" != server ] || give_up_when_hopeless
        say "$name: ended with $code, starts again in $pause s"
        sleep "$pause" &
        child=$!
        wait "$child" || true
        [ -z "$stopping" ] || exit "$code"
    done
}

stop_child() {
    kill -TERM "$child" 2>/dev/null || return 0
    release_port
    [ "$name" = server ] || (sleep "$STOP_GRACE_S" && kill -KILL "$child" 2>/dev/null) &
}

# A signal ends `wait`, too, without the child's code. When there is nothing left to wait for, it says 127.
wait_for_child() {
    code=127
    for _ in 1 2 3; do
        status=0
        wait "$child" || status=$?
        [ "$status" = 127 ] || code=$status
    done
}

# Counts deaths in a row, and sets the pause before the next start.
count_death() {
    [ $(($(date +%s) - began)) -lt "$STEADY_S" ] || deaths=0
    deaths=$((deaths + 1))
    pause=1
    for _ in $(seq 2 "$deaths"); do
        pause=$((pause < MAX_PAUSE_S / 2 ? pause * 2 : MAX_PAUSE_S))
    done
}

give_up_when_hopeless() {
    [ "$code" != "$EX_CONFIG" ] || exit "$code"
    [ "$deaths" -ge "$MAX_QUICK_DEATHS" ] || return 0
    [ "$code" != 137 ] || say "$name: was killed; when it takes more memory than the container may have, that is why"
    say "$name: ended $deaths times in a row, giving up"
    exit $((code == 0 ? 1 : code))
}

# -- Redis

start_redis() {
    if [ -n "${REDIS_URL:-}" ]; then
        say "redis: the one that REDIS_URL names"
        return
    fi
    redis_directory="$RUN_DIR/redis"
    redis_password=$(new_secret)
    mkdir -p "$redis_directory"
    # Whoever may enter may connect: a socket of another group would need rights that containers may not have (FSETID).
    if is_root; then chown redis:appuser "$redis_directory"; fi
    chmod 750 "$redis_directory"
    keep redis run_redis &
    services="${services:-} $!"
    export REDIS_URL="unix://:$redis_password@$redis_directory/redis.sock"
    wait_for_file "$redis_directory/redis.sock" || say "redis: has not started yet"
    say "redis: started, on a socket of its own"
}

# In memory alone: what servers keep in Redis they can say again.
run_redis() {
    become redis redis-server - >/dev/null <<REDIS
logfile $redis_directory/log
port 0
unixsocket $redis_directory/redis.sock
unixsocketperm 777
requirepass $redis_password
dir $redis_directory
save ""
appendonly no
maxmemory 64mb
loglevel warning
REDIS
}

# A socket counts, too. Two seconds at most.
wait_for_file() {
    for _ in $(seq 40); do
        [ ! -e "$1" ] || return 0
        sleep 0.05
    done
    return 1
}

# -- the LLM helper

start_helper() {
    wants_helper || return 0
    llm_config="${LLM_CONFIG:-$ETC_DIR/llm.yaml}"
    helper_can_start || return 0
    LLM_SERVER_KEY="sk-$(new_secret)"
    LLM_SERVER_URL="http://127.0.0.1:$LLM_PORT"
    export LLM_SERVER_KEY LLM_SERVER_URL
    keep "llm helper" run_helper &
    services="${services:-} $!"
    say "llm helper: starting on $LLM_SERVER_URL, which takes some 10 s; the server does not wait"
}

# Asked for by its switch, its file, or a model that only it can reach.
wants_helper() {
    [ -z "${LLM_SERVER:-}" ] || { is_true "$LLM_SERVER" && return 0 || return 1; }
    [ -z "${LLM_SERVER_URL:-}" ] || return 1
    [ -z "${LLM_CONFIG:-}" ] || return 0
    case "${ANTHROPIC_MODEL:-}${CODEX_DEFAULT_MODEL:-}" in */*) return 0 ;; esac
    return 1
}

helper_can_start() {
    if [ ! -x "$LITELLM" ]; then
        say "llm helper: is not in this image; use the one without -slim"
        return 1
    fi
    if ! as llm test -r "$llm_config"; then
        say "llm helper: not started, its user $(as llm id -u) cannot read LLM_CONFIG=$llm_config"
        return 1
    fi
    memory_mb=$(memory_limit_mb)
    [ "${memory_mb:-$HELPER_MEMORY_MB}" -ge "$HELPER_MEMORY_MB" ] && return 0
    say "llm helper: not started, a limit of $memory_mb MB is too small; give the container $HELPER_MEMORY_MB MB"
    return 1
}

# It sees its own key and the providers', and nothing else of the environment.
run_helper() {
    set -- "$LITELLM" --config "$llm_config" --host 127.0.0.1 --port "$LLM_PORT" --telemetry False
    export HOME="$RUN_DIR" LITELLM_LOCAL_MODEL_COST_MAP=True
    export LITELLM_MASTER_KEY="$LLM_SERVER_KEY" LLM_MESSAGES_URL="$LLM_SERVER_URL/v1/messages"
    # shellcheck disable=SC2013  # names have no blanks
    for variable in $(awk 'BEGIN { for (name in ENVIRON) print name }'); do
        is_for_helper "$variable" || unset "$variable"
    done
    become llm "$@"
}

is_for_helper() {
    case "$1" in
    API_KEY | LLM_SERVER_KEY) return 1 ;;
    PATH | HOME | LANG | TZ | LLM_MESSAGES_URL | *_PROXY | *_proxy | SSL_CERT_* | REQUESTS_CA_BUNDLE) return 0 ;;
    LITELLM_* | *_API_KEY | *_API_BASE | *_BASE_URL | *_API_VERSION | AWS_* | AZURE_* | VERTEX* | GOOGLE_* | HF_TOKEN) return 0 ;;
    esac
    return 1
}

# -- SSH

start_ssh() {
    [ -z "${ROOT_PASSWORD:-}" ] || say "ssh: ROOT_PASSWORD is not used, root cannot log in"
    if [ -n "${AUTHORIZED_KEYS:-}${SSH_PUBLIC_KEY:-}${SSH_PASSWORD:-}" ]; then
        if is_root; then prepare_ssh; else say "ssh: not started, that needs a container that starts as root"; fi
    fi
    unset AUTHORIZED_KEYS SSH_PUBLIC_KEY SSH_PASSWORD ROOT_PASSWORD
}

prepare_ssh() {
    mkdir -p /run/sshd "$RUN_DIR/ssh"
    printf '%s\n' "${AUTHORIZED_KEYS:-}" "${SSH_PUBLIC_KEY:-}" >"$RUN_DIR/ssh/authorized_keys"
    by_password=no
    if [ -n "${SSH_PASSWORD:-}" ]; then
        by_password=yes
        printf '%s\n' "agent:$SSH_PASSWORD" "appuser:$SSH_PASSWORD" | chpasswd || fail "ssh: the password cannot be set; use AUTHORIZED_KEYS"
    fi
    make_host_key
    keep sshd run_sshd "$by_password" &
    services="${services:-} $!"
    say "ssh: started for agent and appuser, password: $by_password"
}

# A container keeps its key; one that is mounted into it goes with it into the next.
make_host_key() {
    key="$RUN_DIR/ssh/ssh_host_ed25519_key"
    [ ! -f "$ETC_DIR/ssh_host_ed25519_key" ] || install -m 600 "$ETC_DIR/ssh_host_ed25519_key" "$key"
    [ -f "$key" ] || ssh-keygen -q -t ed25519 -N '' -f "$key"
}

run_sshd() {
    exec env -i PATH="$PATH" LANG="${LANG:-C.UTF-8}" /usr/sbin/sshd -D -e -f "$ETC_DIR/sshd_config" \
        -o "PasswordAuthentication=$1"
}

# -- the server

# Settings come from the environment, and from a file that only the operator can write: one in the volume an agent could.
# The database is migrated by `serve`, before it answers.
run_server() {
    cd "$HOME"
    # shellcheck disable=SC2016  # the pid is that of the inner shell, which becomes the server
    set -- sh -c 'LISTEN_PID=$$ exec "$@"' sh agentsrv --env-file "$ETC_DIR/env" serve
    if ! is_root || [ "$agents" = appuser ]; then become appuser "$@"; fi
    rights=+setuid,+setgid,+kill,+chown # to start agents as another user, signal them, and give them files
    exec setpriv --reuid appuser --regid appuser --init-groups --inh-caps "$rights" --ambient-caps "$rights" -- "$@"
}

run_until_stopped() {
    is_stopping='' server=''
    trap 'is_stopping=1; release_port; [ -z "$server" ] || kill -TERM "$server"' TERM INT
    say "server: starting"
    keep server run_server &
    server=$!
    [ -z "$is_stopping" ] || kill -TERM "$server"
    child=$server
    wait_for_child
    stop_services
    say "ended with $code"
    exit "$code"
}

stop_services() {
    for service in ${services:-}; do
        kill -TERM "$service" 2>/dev/null || true
    done
    for service in ${services:-}; do
        wait "$service" || true
    done
}

main
