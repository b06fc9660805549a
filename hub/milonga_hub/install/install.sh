#!/bin/sh
# Installs milonga-agent on a Debian-family device, upgrades it (run again) or removes it (--uninstall).
#   curl -fsSL @HUB_URL@/install.sh | sudo sh -s -- --token TOKEN
set -eu

HUB_URL='@HUB_URL@'
HUB_GRPC='@HUB_GRPC@'
KNOWN_ENGINES='@ENGINES@'
USER_NAME=milonga-agent
UNIT=milonga-agent.service
PINNED=trusted-root.json

usage() {
    cat <<END
Installs the agent of the Milonga hub at $HUB_URL.
  --token TOKEN       join token (on the hub: milonga tokens create); needed the first time
  --fingerprint F     in place of a token: what milonga up prints on the hub; an operator then approves the device
  --trusted-root FILE root metadata (1.root.json of the hub's signing) that builds must be signed under, had by other means
  --engines A,B       engines to install (default: those installed before, else onnxruntime)
  --name NAME         name of this device (default: its host name)
  --label KEY=VALUE   label of this device; may be repeated
  --offline           take everything from the hub (there: milonga agent-bundle)
  --system-packages   let the agent see the system's Python packages (JetPack's TensorRT, Termux)
  --python PROGRAM    Python to use (default: python3)
  --user-mode         install for this user, without root and systemd, and print how to start
  --foreground        as --user-mode, and run the agent now
  --root DIR          install below DIR as this user and start nothing: to look at what would be done
  --uninstall         stop and remove the agent; --purge removes its identity and data as well
END
}

say() { printf '%s\n' "milonga: $*"; }
fail() {
    printf '%s\n' "milonga: $*" >&2
    exit 1
}

read_options() {
    TOKEN='' ENGINES='' OFFLINE='' SYSTEM_PACKAGES='' PYTHON=python3 USER_MODE='' FOREGROUND='' ROOT='' UNINSTALL='' PURGE=''
    NAME='' LABELS='' FINGERPRINT='' TRUSTED_ROOT=''
    while [ $# -gt 0 ]; do
        case $1 in
            --token | --fingerprint | --trusted-root | --engines | --name | --label | --python | --root)
                [ $# -ge 2 ] || fail "$1 needs a value; see --help"
                case $1 in
                    --token) TOKEN=$2 ;;
                    --fingerprint) FINGERPRINT=$2 ;;
                    --trusted-root) TRUSTED_ROOT=$2 ;;
                    --engines) ENGINES=$2 ;;
                    --name) NAME=$2 ;;
                    --label) add_label "$2" ;;
                    --python) PYTHON=$2 ;;
                    --root) ROOT=$2 ;;
                esac
                shift
                ;;
            --offline) OFFLINE=yes ;;
            --system-packages) SYSTEM_PACKAGES=yes ;;
            --user-mode) USER_MODE=yes ;;
            --foreground) USER_MODE=yes FOREGROUND=yes ;;
            --uninstall) UNINSTALL=yes ;;
            --purge) PURGE=yes ;;
            -h | --help) usage && exit 0 ;;
            *) fail "there is no option $1; see --help" ;;
        esac
        shift
    done
    [ -z "$TRUSTED_ROOT" ] || [ -r "$TRUSTED_ROOT" ] || fail "--trusted-root: cannot read $TRUSTED_ROOT"
    case $ENGINES in *[!a-z,]*) fail "--engines takes names separated by commas, such as onnxruntime,ncnn" ;; esac
    for engine in $(printf '%s' "$ENGINES" | tr ',' ' '); do
        # pip would say no more of it than a warning.
        case " $KNOWN_ENGINES " in
            *" $engine "*) ;;
            *) fail "there is no engine $engine; choose among: $KNOWN_ENGINES" ;;
        esac
    done
}

add_label() {
    case $1 in *[!A-Za-z0-9._=/-]*) fail "--label takes KEY=VALUE of letters, digits, dots, dashes, not '$1'" ;; esac
    LABELS="$LABELS --label $1"
}

choose_folders() {
    if [ -n "$USER_MODE" ] && [ -z "$ROOT" ]; then
        PREFIX=${XDG_DATA_HOME:-$HOME/.local/share}/milonga-agent
        STATE=${XDG_STATE_HOME:-$HOME/.local/state}/milonga-agent
    else
        PREFIX=$ROOT/opt/milonga-agent
        STATE=$ROOT/var/lib/milonga-agent
    fi
    UNITS=$ROOT/etc/systemd/system
    # Only an installation for the whole system makes a user and talks to systemd.
    SYSTEM=yes
    if [ -n "$USER_MODE$ROOT" ]; then SYSTEM=''; fi
    if [ -n "$SYSTEM" ] && [ "$(id -u)" != 0 ]; then
        fail "this needs root: put sudo before sh, or install for this user alone with --user-mode"
    fi
}

running_agents() {
    for process in /proc/[0-9]*; do
        # Some of them end meanwhile.
        if { tr '\0' ' ' <"$process/cmdline" | grep -qF "$PREFIX/"; } 2>/dev/null; then printf ' %s' "${process#/proc/}"; fi
    done
}

remove() {
    if [ -n "$SYSTEM" ] && [ -f "$UNITS/$UNIT" ]; then
        systemctl disable --now "$UNIT" || fail "systemd does not stop $UNIT; see: systemctl status $UNIT"
    fi
    # Without systemd whoever started the agent ends it: one that lost its files would go on without them.
    running=$(running_agents)
    [ -z "$running" ] || fail "an agent runs from $PREFIX; end it (kill$running), then run this again"
    rm -rf "$PREFIX"
    [ -n "$USER_MODE" ] || rm -f "$UNITS/$UNIT"
    if [ -n "$SYSTEM" ]; then systemctl daemon-reload; fi
    if [ -z "$PURGE" ]; then
        say "removed; identity and data stay in $STATE (--uninstall --purge removes them too)"
        return
    fi
    rm -rf "$STATE"
    if [ -n "$SYSTEM" ] && id "$USER_NAME" >/dev/null 2>&1; then userdel "$USER_NAME"; fi
    say "removed with all data; on the hub: milonga devices delete NAME"
}

check_machine() {
    command -v "$PYTHON" >/dev/null 2>&1 ||
        fail "there is no $PYTHON here; run: apt-get install python3 python3-venv"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 9))' ||
        fail "$PYTHON is $("$PYTHON" -V 2>&1), and the agent needs 3.9 or newer; name a newer one with --python"
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null || fail "$PYTHON lacks its venv module; run: apt-get install $(
        "$PYTHON" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    if [ -n "$SYSTEM" ] && [ ! -d /run/systemd/system ]; then
        fail "this machine is not run by systemd; use --user-mode, and start the agent as your init system does"
    fi
    "$PYTHON" - "$HUB_URL/healthz" <<'END' || fail "no hub answers at $HUB_URL; check that it runs and is reachable from here"
import sys, urllib.request
try:
    urllib.request.urlopen(sys.argv[1], timeout=15).read()
except OSError as error:
    sys.exit("milonga: %s" % error)
END
}

check_joined() {
    if [ ! -f "$STATE/certificate.pem" ] && [ -z "$TOKEN$FINGERPRINT" ]; then
        fail "this device has no certificate of the hub yet; make a token there (milonga tokens create) and give it with" \
            "--token, or give the hub's --fingerprint and approve the device there"
    fi
}

# The current one, unless it did not start and the one before took its place.
running_slot() {
    slot=$(readlink "$PREFIX/current" 2>/dev/null) || return 0
    starts=$(cat "$STATE/trial-$slot" 2>/dev/null || echo 0)
    if [ "${starts:-0}" -le 3 ]; then echo "$slot"; elif [ "$slot" = a ]; then echo b; else echo a; fi
}

# The new environment is made beside the one that runs: whatever fails here, the old one goes on.
choose_slot() {
    SLOT=a
    if [ "$(running_slot)" = a ]; then SLOT=b; fi
    if [ -z "$ENGINES" ]; then ENGINES=$(cat "$PREFIX/engines" 2>/dev/null || echo onnxruntime); fi
}

make_environment() {
    mkdir -p "$PREFIX"
    rm -rf "${PREFIX:?}/$SLOT"
    say "installing with engines $ENGINES into $PREFIX/$SLOT"
    "$PYTHON" -m venv ${SYSTEM_PACKAGES:+--system-site-packages} "$PREFIX/$SLOT"
    host=${HUB_URL#*://}
    # Ours come from the hub alone, so that nobody else's package of that name is taken; pip checks their digests.
    PIP_CONFIG_FILE=/dev/null pip --isolated install --no-deps --force-reinstall --no-cache-dir --trusted-host "$host" \
        --index-url "$HUB_URL/simple/" milonga-protos milonga-agent ||
        fail "the hub's own packages cannot be installed; see above"
    install_dependencies
    "$PREFIX/$SLOT/bin/milonga-agent" --version >/dev/null || fail "the new agent does not start; the old one stays"
}

pip() { "$PREFIX/$SLOT/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }

install_dependencies() {
    if [ -z "$OFFLINE" ]; then
        pip install "milonga-agent[$ENGINES]" || fail "pip cannot install what the agent needs, see above; for devices" \
            "without internet prepare a wheelhouse on the hub (milonga agent-bundle --help) and give --offline"
        return
    fi
    kind=$("$PYTHON" -c 'import platform, sys; print(platform.machine(), "%d.%d" % sys.version_info[:2])')
    machine=${kind% *} version=${kind#* }
    PIP_CONFIG_FILE=/dev/null pip --isolated install --no-index --no-cache-dir --trusted-host "$host" \
        --find-links "$HUB_URL/wheelhouses/$machine/$version/" "milonga-agent[$ENGINES]" ||
        fail "the hub has no wheelhouse that is enough; run on the hub:" \
            "milonga agent-bundle --platform $machine --python $version --engines $ENGINES"
}

make_user() {
    [ -n "$SYSTEM" ] || return 0
    id "$USER_NAME" >/dev/null 2>&1 ||
        useradd --system --home-dir "$STATE" --no-create-home --shell /usr/sbin/nologin "$USER_NAME"
    # Accelerators belong to these groups, where they exist.
    for group in video render; do
        if getent group "$group" >/dev/null; then usermod -aG "$group" "$USER_NAME"; fi
    done
}

as_agent() {
    if [ -n "$SYSTEM" ]; then runuser -u "$USER_NAME" -- "$@"; else "$@"; fi
}

join() {
    mkdir -p "$STATE"
    chmod 700 "$STATE"
    if [ -n "$TRUSTED_ROOT" ]; then cp "$TRUSTED_ROOT" "$STATE/$PINNED"; fi
    if [ -n "$SYSTEM" ]; then
        chown "$USER_NAME:" "$STATE"
        [ ! -f "$STATE/$PINNED" ] || chown "$USER_NAME:" "$STATE/$PINNED"
    fi
    [ ! -f "$STATE/certificate.pem" ] || return 0
    # The token stands in the environment: everybody may read command lines.
    # shellcheck disable=SC2086 # each label is two words, and holds no blanks
    MILONGA_JOIN_TOKEN=$TOKEN as_agent "$PREFIX/$SLOT/bin/milonga-agent" enrol --no-wait --hub "$HUB_GRPC" \
        --data-dir "$STATE" ${FINGERPRINT:+--fingerprint "$FINGERPRINT"} ${NAME:+--name "$NAME"} $LABELS >/dev/null ||
        # 8: an operator has not approved yet; the agent goes on asking.
        [ $? = 8 ] || fail "this device has not joined; see above, then run this again"
}

# What the agent is started with; root metadata that was given once stays pinned over upgrades.
run_options() {
    printf '%s' "run --hub $HUB_GRPC --data-dir $STATE"
    if [ -f "$STATE/$PINNED" ]; then printf '%s' " --trusted-root $STATE/$PINNED"; fi
}

# A rename, so that there is always a current environment, also when power dies.
activate() {
    printf '%s\n' "$ENGINES" >"$PREFIX/engines"
    write_start
    rm -f "$STATE/trial-a" "$STATE/trial-b"
    # What is installed here is newer than what the agent has taken from the hub by itself.
    rm -rf "$STATE/releases"
    # An upgrade has to show that it starts: see write_start.
    if [ -L "$PREFIX/current" ]; then as_agent sh -c "echo 0 >'$STATE/trial-$SLOT'"; fi
    ln -sfn "$SLOT" "$PREFIX/current.new"
    mv -T "$PREFIX/current.new" "$PREFIX/current"
    sync
}

# What starts the agent: an upgrade that did not start three times gives way to the agent before it. The agent removes the
# count when it has worked for a minute, or was stopped. A release that the agent has taken from the hub lies over what is installed.
write_start() {
    cat >"$PREFIX/start.new" <<END
#!/bin/sh
# Counts a start of what is on trial; sets starts to 0 for what is not.
count() {
    starts=0
    [ -f "\$1" ] || return 0
    starts=\$(cat "\$1")
    # A power cut may have emptied it.
    case \$starts in '' | *[!0-9]*) starts=0 ;; esac
    starts=\$((starts + 1))
    { printf '%s\\n' "\$starts" >"\$1.new" && mv "\$1.new" "\$1"; } || :
    MILONGA_AGENT_TRIAL=\$1
    export MILONGA_AGENT_TRIAL
}
opposite() { if [ "\$1" = a ]; then echo b; else echo a; fi; }
unset MILONGA_AGENT_TRIAL MILONGA_AGENT_SWITCHED_BACK MILONGA_AGENT_RELEASE PYTHONPATH
slot=\$(readlink "$PREFIX/current")
other=\$(opposite "\$slot")
count "$STATE/trial-\$slot"
if [ "\$starts" -gt 3 ] || [ ! -x "$PREFIX/\$slot/bin/milonga-agent" ]; then
    if [ -x "$PREFIX/\$other/bin/milonga-agent" ]; then
        echo "milonga: the agent in $PREFIX/\$slot does not start; starting the one in $PREFIX/\$other" >&2
        unset MILONGA_AGENT_TRIAL
        MILONGA_AGENT_SWITCHED_BACK="$PREFIX/\$slot"
        export MILONGA_AGENT_SWITCHED_BACK
        slot=\$other
    fi
fi
MILONGA_AGENT_START="$PREFIX/start"
MILONGA_AGENT_RELEASES="$STATE/releases"
export MILONGA_AGENT_START MILONGA_AGENT_RELEASES
release=\$(readlink "$STATE/releases/current" 2>/dev/null)
if [ -n "\$release" ]; then
    count "$STATE/releases/trial-\$release"
    if [ "\$starts" -gt 3 ]; then
        echo "milonga: the agent in $STATE/releases/\$release does not start; starting the one before it" >&2
        unset MILONGA_AGENT_TRIAL
        MILONGA_AGENT_SWITCHED_BACK="$STATE/releases/\$release"
        export MILONGA_AGENT_SWITCHED_BACK
        # The release before, if it has shown that it works; else what is installed.
        release=\$(opposite "\$release")
        if [ -f "$STATE/releases/trial-\$release" ]; then release=; fi
    fi
fi
if [ -n "\$release" ] && [ -d "$STATE/releases/\$release/milonga_agent" ]; then
    MILONGA_AGENT_RELEASE=\$release
    PYTHONPATH="$STATE/releases/\$release"
    export MILONGA_AGENT_RELEASE PYTHONPATH
fi
exec "$PREFIX/\$slot/bin/milonga-agent" "\$@"
END
    chmod 755 "$PREFIX/start.new"
    mv "$PREFIX/start.new" "$PREFIX/start"
}

write_unit() {
    mkdir -p "$UNITS"
    cat >"$UNITS/$UNIT.new" <<END
[Unit]
Description=Milonga agent: runs, measures and watches the networks that $HUB_URL assigns
Wants=network-online.target
After=network-online.target
# Never give up: nobody may be near to start it again.
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=$PREFIX/start $(run_options)
User=$USER_NAME
Restart=always
RestartSec=2
# systemd 254 and newer wait longer each time; older ones say that they do not know these two.
RestartSteps=6
RestartMaxDelaySec=60
WatchdogSec=60
TimeoutStartSec=120
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ReadWritePaths=$STATE
ProtectHome=yes
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
END
    mv "$UNITS/$UNIT.new" "$UNITS/$UNIT"
}

start() {
    command="$PREFIX/start $(run_options)"
    if [ -n "$SYSTEM" ]; then
        systemctl daemon-reload
        systemctl enable "$UNIT"
        systemctl restart "$UNIT" || fail "the agent does not start; see: journalctl -u $UNIT"
        say "the agent runs; see: systemctl status $UNIT"
    elif [ -n "$FOREGROUND" ]; then
        # shellcheck disable=SC2086 # neither addresses nor these folders hold blanks
        exec $command
    else
        say "installed; start it with:"
        printf '%s\n' "  $command"
    fi
}

install() {
    check_machine
    check_joined
    choose_slot
    make_environment
    make_user
    join
    activate
    [ -n "$USER_MODE" ] || write_unit
    start
}

# All in functions: a download that is cut off runs nothing.
main() {
    read_options "$@"
    choose_folders
    case $PREFIX in *[!A-Za-z0-9._/-]*) fail "the folder $PREFIX has blanks or odd letters; choose another with --root" ;; esac
    if [ -n "$UNINSTALL" ]; then remove; else install; fi
}

main "$@"
