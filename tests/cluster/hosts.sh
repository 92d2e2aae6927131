#!/usr/bin/env bash
# "Hosts" on one machine, for trying a cluster as it is used: each has its own address, name, processes, home, /tmp and
# /dev/shm, and an sshd. Needs root and namespaces; writes only below $ARSCHED_HOSTS, and installs and mounts nothing
# that this machine's other processes would see. tests/cluster/run.py drives it.
#
#   hosts.sh can                  whether this machine can; exit code 3 and a sentence when not
#   hosts.sh up                   laptop "lap" (10.99.0.10) and h1, h2, h3 (.11, .12, .13); lap's key opens all
#   hosts.sh on HOST COMMAND...   a command on a host, as its user, through ssh from lap
#   hosts.sh root HOST COMMAND... the same as root, without ssh
#   hosts.sh cut|mend HOST        pull the host's cable at the switch, or put it back
#   hosts.sh crash|boot HOST      a power cut, without a last packet; and starting again (home stays, /tmp is new)
#   hosts.sh wheels CHECKOUT      fill $WHEELS with what `make install` needs there: hosts have no way out
#   hosts.sh down                 end the hosts; files below $ARSCHED_HOSTS stay
#
# They share this machine's kernel (boot_id), clock, cores and programs. Rehearse, do not measure.
set -euo pipefail

BASE=${ARSCHED_HOSTS:-${TMPDIR:-/tmp}/arsched-hosts}
WHEELS=${WHEELS:-$BASE/wheels}      # every host's /srv
PLAYERS=${PLAYERS:-"lap:10 h1:11 h2:12 h3:13"}
ROUTELESS=${ROUTELESS:-}            # hosts without a default route, as in a rack without a way out
NAMED=${NAMED:-}                    # host:name pairs, for hosts that are called otherwise, like each other
NET=10.99.0
ACCOUNT=rig ACCOUNT_ID=20017

number_of() { for pair in $PLAYERS; do [ "${pair%%:*}" = "$1" ] && echo "${pair##*:}" && return; done; echo "there is no host $1" >&2; exit 2; }
name_of()   { for pair in $NAMED; do [ "${pair%%:*}" = "$1" ] && echo "${pair##*:}" && return; done; echo "$1"; }
pid_of()    { cat "$BASE/$1/pid"; }
in_switch() { nsenter -t "$(cat "$BASE/switch")" -n "$@"; }

demand() {
  [ "$(id -u)" = 0 ] || { echo "hosts need root, being namespaces with networks of their own: run this as root" >&2; exit 3; }
  local lacking=()
  for program in ip ssh ssh-keygen rsync make nsenter unshare /usr/sbin/sshd; do
    command -v "$program" >/dev/null || lacking+=("$program")
  done
  [ ${#lacking[@]} = 0 ] || { echo "hosts need ${lacking[*]} on this machine: install iproute2, openssh-server, rsync, make, util-linux" >&2; exit 3; }
  unshare --mount --pid --uts --ipc --net --fork --mount-proc true 2>/dev/null ||
    { echo "hosts need namespaces, and this machine makes none: take one that does, or a container with CAP_SYS_ADMIN" >&2; exit 3; }
  unshare --net bash -c 'ip link add name try0 type veth peer name try1 && ip link add name try2 type bridge' 2>/dev/null ||
    { echo "hosts need veth pairs and a bridge, and this kernel has none: load its modules veth and bridge" >&2; exit 3; }
}

accounts() {  # this machine's, and the hosts' user; bound over /etc by each host for itself
  mkdir -p "$BASE/etc"
  { grep -v "^$ACCOUNT:" /etc/passwd; echo "$ACCOUNT:x:$ACCOUNT_ID:$ACCOUNT_ID::/home/$ACCOUNT:/bin/bash"; } > "$BASE/etc/passwd"
  { grep -v "^$ACCOUNT:" /etc/group;  echo "$ACCOUNT:x:$ACCOUNT_ID:"; } > "$BASE/etc/group"
  { grep -v "^$ACCOUNT:" /etc/shadow; echo "$ACCOUNT:*:19000:0:99999:7:::"; } > "$BASE/etc/shadow"
  grep -q '^sshd:' "$BASE/etc/passwd" || echo "sshd:x:20016:65534::/run/sshd:/usr/sbin/nologin" >> "$BASE/etc/passwd"
  chmod 644 "$BASE/etc/passwd" "$BASE/etc/group"; chmod 600 "$BASE/etc/shadow"
  [ -e "$BASE/key" ] || ssh-keygen -q -t ed25519 -N '' -C hosts -f "$BASE/key"
}

lay_out() {
  local host=$1 dir=$BASE/$1
  mkdir -p "$dir"/{home/.ssh,tmp,ssh,homes}
  chmod 1777 "$dir/tmp"; chmod 700 "$dir/home/.ssh"
  [ -e "$dir/home/.bashrc" ] || cp -rT /etc/skel "$dir/home"
  cp "$BASE/key.pub" "$dir/home/.ssh/authorized_keys"
  if [ "$host" = lap ]; then cp "$BASE/key" "$dir/home/.ssh/id_ed25519"; chmod 600 "$dir/home/.ssh/id_ed25519"; fi
  [ -e "$dir/ssh/host_key" ] || ssh-keygen -q -t ed25519 -N '' -f "$dir/ssh/host_key"
  printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$(name_of "$host")" > "$dir/hosts"    # as Debian and Ubuntu write it
  cat > "$dir/ssh/sshd_config" <<CONFIG
HostKey /mnt/host_key
PidFile none
UsePAM no
PasswordAuthentication no
PermitRootLogin no
AllowUsers $ACCOUNT
MaxStartups 100
Subsystem sftp internal-sftp
SetEnv PIP_CONFIG_FILE=/dev/null PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv PATH=/usr/local/bin:/usr/bin:/bin
CONFIG
  chown -R $ACCOUNT_ID:$ACCOUNT_ID "$dir/home"
  cat > "$dir/init" <<INIT
#!/bin/bash
# Process 1 of $host: what it sees of the machine, its sshd, and reaping what is left to it.
hostname $(name_of "$host")
mount --bind $BASE/etc/passwd /etc/passwd
mount --bind $BASE/etc/group /etc/group
mount --bind $BASE/etc/shadow /etc/shadow
mount --bind $dir/hosts /etc/hosts
mount --bind $WHEELS /srv
mount --bind $dir/ssh /mnt
mount --bind $dir/homes /home
mkdir -p /home/$ACCOUNT && mount --bind $dir/home /home/$ACCOUNT
mount -t tmpfs -o size=8g,mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p /run/sshd /run/lock
mount --bind $dir/tmp /tmp
cd /
/usr/sbin/sshd -D -e -f /mnt/sshd_config 2>/mnt/sshd.log &
sshd=\$!
while kill -0 \$sshd 2>/dev/null; do wait -n || sleep 1; done
INIT
  chmod +x "$dir/init"
}

plug_in() {
  local host=$1 number pid
  number=$(number_of "$host"); pid=$(pid_of "$host")
  in_switch ip link del "v-$host" 2>/dev/null || true
  in_switch ip link add "v-$host" type veth peer name eth0 netns "$pid"
  in_switch ip link set "v-$host" master br0 up
  nsenter -t "$pid" -n ip link set lo up
  nsenter -t "$pid" -n ip addr add "$NET.$number/24" dev eth0
  nsenter -t "$pid" -n ip link set eth0 up
  case " $ROUTELESS " in *" $host "*) ;; *) nsenter -t "$pid" -n ip route add default via $NET.1 ;; esac  # leads nowhere
}

boot() {
  local host=$1 dir=$BASE/$1 outer pid=
  setsid unshare --mount --pid --uts --ipc --net --fork --kill-child --mount-proc --propagation private \
    "$dir/init" </dev/null >"$dir/init.log" 2>&1 &
  outer=$!
  for _ in $(seq 300); do pid=$(pgrep -P "$outer" | head -1) && [ -n "$pid" ] && break; sleep 0.1; done
  echo "$pid" > "$dir/pid"
  plug_in "$host"
  for _ in $(seq 300); do
    nsenter -t "$pid" -n bash -c "exec 3<>/dev/tcp/127.0.0.1/22" 2>/dev/null && return; sleep 0.1
  done
  echo "$host did not come up; see $dir/init.log and $dir/ssh/sshd.log" >&2; return 1
}

is_ours() { tr '\0' ' ' < "/proc/$1/cmdline" 2>/dev/null | grep -qF "$2"; }  # and no process that got an old number

end_of() {  # cut first: a host without power says no goodbye to its peers
  local pid
  in_switch ip link set "v-$1" down 2>/dev/null || true
  pid=$(pid_of "$1" 2>/dev/null) && is_ours "$pid" "$BASE/$1/init" && kill -9 "$pid" || true
  rm -f "$BASE/$1/pid"
}

case ${1:-} in
  can) demand ;;
  up)
    demand
    [ ! -e "$BASE/switch" ] || { echo "hosts are up already, or were not taken down: $0 down" >&2; exit 2; }
    mkdir -p "$BASE" "$WHEELS"; chmod 755 "$BASE"
    accounts
    setsid unshare --net sleep infinity </dev/null >/dev/null 2>&1 &
    echo $! > "$BASE/switch"
    for _ in $(seq 100); do [ "$(readlink "/proc/$(cat "$BASE/switch")/ns/net")" != "$(readlink /proc/self/ns/net)" ] && break; sleep 0.1; done
    in_switch ip link set lo up
    in_switch ip link add br0 type bridge
    in_switch ip addr add $NET.1/24 dev br0
    in_switch ip link set br0 up
    for pair in $PLAYERS; do lay_out "${pair%%:*}"; boot "${pair%%:*}"; done
    ;;
  on)
    host=$2; shift 2
    exec nsenter -t "$(pid_of lap)" -n ssh -i "$BASE/key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
      -o LogLevel=ERROR -o ConnectTimeout=60 "$ACCOUNT@$NET.$(number_of "$host")" "$@"
    ;;
  root)   host=$2; shift 2; exec nsenter -t "$(pid_of "$host")" -m -p -u -i -n "$@" ;;
  cut)    in_switch ip link set "v-$2" down ;;
  mend)   in_switch ip link set "v-$2" up ;;
  crash)  end_of "$2" ;;
  boot)   rm -rf "$BASE/$2/tmp"; lay_out "$2"; boot "$2" ;;
  wheels)  # with the Python that hosts have
    mkdir -p "$WHEELS"
    [ -x "$BASE/pip/bin/python" ] || PATH=/usr/local/bin:/usr/bin:/bin python3 -m venv "$BASE/pip"
    (cd "$2" && "$BASE/pip/bin/python" -m pip download -q --disable-pip-version-check --progress-bar off \
      -c constraints.txt -d "$WHEELS" . 'setuptools>=77' wheel pip)
    rm -f "$WHEELS"/arsched-*
    ;;
  down)
    for pair in $PLAYERS; do end_of "${pair%%:*}"; done
    switch=$(cat "$BASE/switch" 2>/dev/null) && is_ours "$switch" "sleep infinity" && kill "$switch" || true
    rm -f "$BASE/switch"
    ;;
  *) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
