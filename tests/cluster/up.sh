#!/usr/bin/env bash
# Start a real one-node Kubernetes cluster on this machine, as root, without an image registry elsewhere: etcd, kube-apiserver,
# kube-controller-manager, kube-scheduler, containerd, kubelet, kube-proxy. `python -m tests.cluster.cluster up` calls it.
#
#   BIN=...    folder of hyperkube (argv[0] selects the component) and pause.tar
#   RUN=...    everything it creates is in this folder; down.sh removes it
#   REGISTRY=FOLDER   also start docker-registry on 127.0.0.1:5001 with its blobs in FOLDER
#
# Then: export KUBECONFIG=$RUN/admin.kubeconfig
# Needs on the PATH: etcd, containerd, ctr, runc, iptables, openssl, curl, bc, kubectl, docker-registry; CNI plugins in CNI_BIN.
set -euo pipefail

RUN=${RUN:?the folder to work in}
BIN=${BIN:?the folder of the programs}
CNI_BIN=${CNI_BIN:-/usr/lib/cni}
NODE=node-1
NODE_IP=10.123.0.1            # on a bridge with no ports: the cluster never listens on eth0
POD_CIDR=10.244.0.0/24
SVC_CIDR=10.96.0.0/16
API_SVC_IP=10.96.0.1
API=https://$NODE_IP:6443
ETCD=http://127.0.0.1:23790
SOCK=$RUN/containerd/containerd.sock

[ "$(id -u)" = 0 ] || { echo "up.sh: must be root" >&2; exit 1; }
[ ! -e "$RUN/pids" ] || { echo "up.sh: $RUN exists; run down.sh first" >&2; exit 1; }
! ip link show kn0 >/dev/null 2>&1 || { echo "up.sh: the bridge kn0 is there: another cluster runs here, or was killed (RUN=its folder down.sh)" >&2; exit 1; }
mkdir -p "$RUN"/{pki,pids,logs,containerd,certs.d,cni/net.d,cni/state,kubelet,podlogs}
T0=$(date +%s.%N)
say() { printf '%6.1fs  %s\n' "$(echo "$(date +%s.%N) - $T0" | bc)" "$*"; }

# helpers
start() {                     # start NAME COMMAND...: detached, with a pid file and a log
  local name=$1; shift
  setsid nohup "$@" >"$RUN/logs/$name.log" 2>&1 </dev/null &
  echo $! >"$RUN/pids/$name"
}
wait_for() {                  # wait_for SECONDS WHAT COMMAND...
  local end=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "up.sh: timed out waiting for $what (see $RUN/logs)" >&2; exit 1; }
    sleep 0.2
  done
}
ctr() { command ctr --address "$SOCK" -n k8s.io "$@"; }

for c in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet; do
  ln -sf hyperkube "$BIN/$c"
done

# certificates
cd "$RUN/pki"
newkey() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
newca() { newkey "$1"; openssl req -x509 -new -key "$1.key" -subj "/CN=$1" -days 365 -out "$1.crt"; }
cert() {                      # cert NAME SUBJECT CA USAGE [SAN]
  newkey "$1"
  openssl req -new -key "$1.key" -subj "$2" |
    openssl x509 -req -CA "$3.crt" -CAkey "$3.key" -CAcreateserial -days 365 -out "$1.crt" -extfile <(
      echo "keyUsage=digitalSignature"; echo "extendedKeyUsage=$4"
      [ -z "${5:-}" ] || echo "subjectAltName=$5") 2>/dev/null
}
newca ca; newca front-proxy-ca
newkey sa; openssl ec -in sa.key -pubout -out sa.pub 2>/dev/null
cert apiserver /CN=kube-apiserver ca serverAuth "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:$API_SVC_IP,IP:$NODE_IP"
cert kubelet-server "/O=system:nodes/CN=system:node:$NODE" ca serverAuth "DNS:$NODE,IP:$NODE_IP"
cert apiserver-kubelet /O=system:masters/CN=apiserver-kubelet ca clientAuth
cert front-proxy /CN=front-proxy front-proxy-ca clientAuth
user() {                      # user NAME SUBJECT: a client certificate and its kubeconfig
  cert "$1" "$2" ca clientAuth
  cat >"$RUN/$1.kubeconfig" <<EOF
{apiVersion: v1, kind: Config, current-context: local,
 clusters: [{name: local, cluster: {server: "$API", certificate-authority-data: "$(base64 -w0 ca.crt)"}}],
 users: [{name: $1, user: {client-certificate-data: "$(base64 -w0 "$1.crt")", client-key-data: "$(base64 -w0 "$1.key")"}}],
 contexts: [{name: local, context: {cluster: local, user: $1}}]}
EOF
}
user admin /O=system:masters/CN=admin
user controller-manager /CN=system:kube-controller-manager
user scheduler /CN=system:kube-scheduler
user kubelet "/O=system:nodes/CN=system:node:$NODE"
user proxy /CN=system:kube-proxy
say "certificates"

# machine settings (down.sh restores them)
# kubelet sets overcommit_memory and panic*; pods need forwarding and more inotify instances.
sysctl -e vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops net.ipv4.ip_forward \
  fs.inotify.max_user_instances net.bridge.bridge-nf-call-iptables >"$RUN/sysctl.before"
sysctl -qw net.ipv4.ip_forward=1 fs.inotify.max_user_instances=1024
sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true   # a pod calling its own Service needs it
# Places outside $RUN that no setting moves; down.sh removes those that were not there before.
for d in /var/log/containers /var/lib/kubelet /var/lib/cni; do [ -e $d ] || echo $d; done >"$RUN/made-outside"
ip link add kn0 type bridge; ip addr add $NODE_IP/32 dev kn0; ip link set kn0 up
# Pods must be forwarded even under Docker's FORWARD policy DROP, and must be masqueraded to go out.
iptables -w -N KLOCAL-FORWARD; iptables -w -I FORWARD 1 -j KLOCAL-FORWARD
iptables -w -A KLOCAL-FORWARD -s $POD_CIDR -j ACCEPT; iptables -w -A KLOCAL-FORWARD -d $POD_CIDR -j ACCEPT
iptables -w -t nat -N KLOCAL-POST; iptables -w -t nat -A POSTROUTING -j KLOCAL-POST
iptables -w -t nat -A KLOCAL-POST -s $POD_CIDR ! -d $POD_CIDR -j MASQUERADE

# etcd and containerd
start etcd etcd --name n --data-dir "$RUN/etcd" --logger zap --log-level warn \
  --listen-client-urls $ETCD --advertise-client-urls $ETCD \
  --listen-peer-urls http://127.0.0.1:23800 --initial-advertise-peer-urls http://127.0.0.1:23800 \
  --initial-cluster n=http://127.0.0.1:23800

cat >"$RUN/containerd/config.toml" <<EOF
version = 2
root = "$RUN/containerd/root"
state = "$RUN/containerd/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]
[grpc]
  address = "$SOCK"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "cluster.local/pause:1"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true       # without CAP_SYS_RESOURCE runc dies on the -998 kubelet asks for ("can't get final child's PID")
  enable_unprivileged_ports = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "$CNI_BIN"
  conf_dir = "$RUN/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
    SystemdCgroup = false
    Root = "$RUN/containerd/runc"
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "$RUN/certs.d"
EOF
# Any image of these hosts is pulled from the registry on this machine, over plain http.
for h in 127.0.0.1:5001 registry.cluster.local; do
  mkdir -p "$RUN/certs.d/$h"
  printf 'server = "http://127.0.0.1:5001"\n[host."http://127.0.0.1:5001"]\n  capabilities = ["pull", "resolve"]\n' >"$RUN/certs.d/$h/hosts.toml"
done
cat >"$RUN/cni/net.d/10-bridge.conflist" <<EOF
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "$RUN/cni/state",
            "ranges": [[{"subnet": "$POD_CIDR"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
EOF
start containerd containerd --config "$RUN/containerd/config.toml" --log-level warn

if [ -n "${REGISTRY:-}" ]; then
  cat >"$RUN/registry.yml" <<EOF
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $REGISTRY}, delete: {enabled: true}}
http: {addr: "127.0.0.1:5001"}
EOF
  start registry docker-registry serve "$RUN/registry.yml"
fi

# control plane
P=$RUN/pki
start kube-apiserver "$BIN/kube-apiserver" --etcd-servers=$ETCD \
  --bind-address=$NODE_IP --advertise-address=$NODE_IP --secure-port=6443 \
  --service-cluster-ip-range=$SVC_CIDR --service-node-port-range=30000-32767 \
  --tls-cert-file="$P/apiserver.crt" --tls-private-key-file="$P/apiserver.key" --client-ca-file="$P/ca.crt" \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local \
  --service-account-key-file="$P/sa.pub" --service-account-signing-key-file="$P/sa.key" \
  --kubelet-client-certificate="$P/apiserver-kubelet.crt" --kubelet-client-key="$P/apiserver-kubelet.key" \
  --kubelet-certificate-authority="$P/ca.crt" --kubelet-preferred-address-types=InternalIP \
  --requestheader-client-ca-file="$P/front-proxy-ca.crt" --requestheader-allowed-names=front-proxy \
  --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
  --requestheader-extra-headers-prefix=X-Remote-Extra- \
  --proxy-client-cert-file="$P/front-proxy.crt" --proxy-client-key-file="$P/front-proxy.key" \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
  --profiling=false
api() { curl -fsS --cacert "$P/ca.crt" --cert "$P/admin.crt" --key "$P/admin.key" "$API$1"; }
wait_for 120 kube-apiserver api /readyz
say "kube-apiserver ready"

start kube-controller-manager "$BIN/kube-controller-manager" --kubeconfig="$RUN/controller-manager.kubeconfig" \
  --leader-elect=false --bind-address=127.0.0.1 --use-service-account-credentials=true --profiling=false \
  --root-ca-file="$P/ca.crt" --service-account-private-key-file="$P/sa.key" \
  --cluster-signing-cert-file="$P/ca.crt" --cluster-signing-key-file="$P/ca.key" \
  --flex-volume-plugin-dir="$RUN/kubelet/volumeplugins"
start kube-scheduler "$BIN/kube-scheduler" --kubeconfig="$RUN/scheduler.kubeconfig" \
  --leader-elect=false --bind-address=127.0.0.1 --profiling=false

# images
wait_for 60 containerd ctr version
import() { ctr images import "$1" >>"$RUN/logs/import.log" 2>&1; }
import "$BIN/pause.tar"

# kubelet and kube-proxy
cat >"$RUN/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false                 # 1.35+ refuses cgroup v1 by default
cgroupDriver: cgroupfs              # no systemd here; containerd 1.6 does not report it (RuntimeConfig)
containerRuntimeEndpoint: unix://$SOCK
address: $NODE_IP
readOnlyPort: 0
healthzBindAddress: 127.0.0.1
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $P/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $P/kubelet-server.crt
tlsPrivateKeyFile: $P/kubelet-server.key
clusterDomain: cluster.local
clusterDNS: []                      # no DNS server: the tests use cluster addresses
resolvConf: /etc/resolv.conf
podLogsDir: $RUN/podlogs
volumePluginDir: $RUN/kubelet/volumeplugins
failSwapOn: false
maxPods: 60
serializeImagePulls: false
imageGCHighThresholdPercent: 100    # never collect imported images: nothing could pull them again
imagePullCredentialsVerificationPolicy: NeverVerify   # otherwise an imported tag stops working once the same image id was pulled
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
enforceNodeAllocatable: [pods]
EOF
start kubelet "$BIN/kubelet" --config="$RUN/kubelet.yaml" --kubeconfig="$RUN/kubelet.kubeconfig" \
  --root-dir="$RUN/kubelet" --cert-dir="$P" --hostname-override=$NODE --node-ip=$NODE_IP

cat >"$RUN/kube-proxy.yaml" <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $RUN/proxy.kubeconfig}
mode: iptables
clusterCIDR: $POD_CIDR
hostnameOverride: $NODE
bindAddress: $NODE_IP
nodePortAddresses: ["$NODE_IP/32"]
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}   # leave the machine's values
iptables: {localhostNodePorts: false, minSyncPeriod: 0s, syncPeriod: 5m}
EOF
start kube-proxy "$BIN/kube-proxy" --config="$RUN/kube-proxy.yaml"

export KUBECONFIG=$RUN/admin.kubeconfig
wait_for 120 "the node" sh -c "kubectl get node $NODE -o jsonpath='{.status.conditions[?(@.type==\"Ready\")].status}' | grep -q True"
say "node Ready"

wait_for 60 "the default service account" kubectl -n default get serviceaccount default
say "up; export KUBECONFIG=$KUBECONFIG"
