#!/usr/bin/env bash
# Stop the cluster that up.sh started and remove everything it left: processes, mounts, cgroups,
# bridges, iptables chains, changed sysctls, $RUN. Safe to run twice, or after a failed up.sh.
set -uo pipefail
RUN=${RUN:?the folder that up.sh worked in}
SOCK=$RUN/containerd/containerd.sock
[ -d "$RUN" ] || { echo "down.sh: nothing to stop"; exit 0; }

gone() { ! grep -qsv '^State:.Z' <(grep -s '^State:' "/proc/$1/status"); }   # a zombie waiting for init is gone
stop() {                      # stop NAME...: only processes whose pid up.sh wrote, and only if still the same ones
  local n p i ps=()
  for n in "$@"; do
    p=$(cat "$RUN/pids/$n" 2>/dev/null) || continue
    tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null | grep -q -- "$n" && kill "$p" && ps+=("$p")
    rm -f "$RUN/pids/$n"
  done
  for p in "${ps[@]}"; do
    for i in $(seq 50); do gone "$p" && break; sleep 0.1; done
    gone "$p" || kill -9 "$p"
  done
}
stop kubelet kube-scheduler kube-controller-manager kube-proxy

# Containers outlive containerd (their shims hold them), so they go first, through containerd.
if [ -e "$RUN/pids/containerd" ]; then
  ctr() { timeout 20 ctr --address "$SOCK" -n k8s.io "$@" 2>/dev/null; }
  for t in $(ctr tasks ls -q); do ctr tasks kill -s KILL -a "$t"; done
  for i in $(seq 50); do ctr tasks ls | grep -q RUNNING || break; sleep 0.1; done
  for t in $(ctr tasks ls -q); do ctr tasks delete -f "$t" >/dev/null; done
  for t in $(ctr containers ls -q); do ctr containers delete "$t"; done
fi
stop kube-apiserver containerd registry
stop etcd

# Mounts under $RUN: overlays, sandbox shm, service-account tmpfs, network namespaces.
awk -v r="$RUN/" 'index($2, r) == 1 {print $2}' /proc/mounts | sort -r | while read -r m; do umount -l "$m"; done

# iptables: this cluster's chains only (KUBE-*, KLOCAL-*, CNI-HOSTPORT*); other rules stay.
clean() {                     # clean IPTABLES TABLE
  local ipt=$1 t=$2 re='(KUBE|KLOCAL|CNI-(HOSTPORT|DN|SN))'
  $ipt -w -t "$t" -S 2>/dev/null | grep -E -- "^-A .*-j $re" | grep -vE -- "^-A $re" |
    sed 's/^-A/-D/' | while read -r l; do eval "$ipt -w -t $t $l"; done
  $ipt -w -t "$t" -S 2>/dev/null | awk -v re="^$re" '$1 == "-N" && $2 ~ re {print $2}' >"$RUN/chains"
  while read -r c; do echo "-F $c"; done <"$RUN/chains" >"$RUN/restore"
  while read -r c; do echo "-X $c"; done <"$RUN/chains" >>"$RUN/restore"
  [ ! -s "$RUN/restore" ] || { echo "*$t"; cat "$RUN/restore"; echo COMMIT; } | $ipt-restore -w -n
}
for t in filter nat mangle; do clean iptables $t; clean ip6tables $t; done
for d in cni0 kn0; do ip link del $d 2>/dev/null; done

# cgroup v1 leaves its directories behind
for c in /sys/fs/cgroup/*/kubepods /sys/fs/cgroup/kubepods; do
  [ -d "$c" ] && find "$c" -depth -type d -exec rmdir {} + 2>/dev/null
done
[ ! -e "$RUN/sysctl.before" ] || sysctl -qe -p "$RUN/sysctl.before"
[ ! -e "$RUN/made-outside" ] || xargs -r rm -rf -- <"$RUN/made-outside"   # kubelet's log links, device-plugin dir, CNI results
rm -rf "$RUN" && echo "down.sh: stopped"
