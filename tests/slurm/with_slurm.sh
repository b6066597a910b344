#!/bin/bash
# A Slurm of two pretended nodes on this machine, for as long as one command runs:
#
#     tests/slurm/with_slurm.sh sinfo
#
# Wants root on Debian; elsewhere it says so and leaves with code 0, or 1 where SLURM_REQUIRED is set. It installs
# slurmctld, slurmd and munge where they are missing, and starts them by hand: on loopback, on ports of its own, with all
# their files in one temporary folder and no cgroups. At the end, also after Ctrl-C, it stops each daemon by its pid and
# removes the folder.
set -u

skip() { echo "Slurm tests skipped: $1"; [ -z "${SLURM_REQUIRED:-}" ]; exit; }
[ "$(id -u)" = 0 ] || skip "they want root, to run Slurm's daemons"
[ -e /etc/debian_version ] && command -v apt-get >/dev/null || skip "they want Debian, for its packages of Slurm"

# ---------------------------------------------------------------------------------------------------------------------
# Packages, without letting dpkg start their daemons
# ---------------------------------------------------------------------------------------------------------------------
if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
    echo "installing Slurm and munge ..."
    policy=/usr/sbin/policy-rc.d
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; ours=1; }
    apt-get update -qq >/dev/null &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            slurmctld slurmd slurm-client munge >/dev/null 2>&1
    installed=$?
    [ -z "${ours:-}" ] || rm -f $policy
    [ $installed = 0 ] || skip "apt-get could not install slurmctld, slurmd, slurm-client and munge"
fi

# ---------------------------------------------------------------------------------------------------------------------
# Configuration
# ---------------------------------------------------------------------------------------------------------------------
for name in $(compgen -e | grep -E '^(SLURM|SBATCH|SRUN|SALLOC)_'); do unset "$name"; done    # of a Slurm outside
home=$(mktemp -d /tmp/slurm-XXXXXX)
chmod 755 "$home"    # munge's socket must be in a folder that all may enter
mkdir -p "$home"/{log,state,spool/n1,spool/n2,munge,gpu}
for number in {0..7}; do ln -s /dev/null "$home/gpu/$number"; done    # a GPU is a device file to Slurm
head -c 128 /dev/urandom >"$home/munge/key" && chmod 600 "$home/munge/key"
host=$(hostname -s)
port=$((12000 + $$ % 6000 * 3))

cat >"$home/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire: otherwise a requeued job waits for two minutes, until its old credential has expired
AuthInfo=socket=$home/munge/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool/%n
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/%n.pid
SlurmctldLogFile=$home/log/slurmctld
SlurmdLogFile=$home/log/%n
MailProg=/bin/true
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1000
# a job that asks for more than there is should fail, not wait
EnforcePartLimits=ALL
SchedulerParameters=bf_interval=1,sched_interval=1
KillWait=30
ReturnToService=2
# believe the sizes below, whatever this machine has; those of the README's commands fit
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=128 RealMemory=1000000 Gres=gpu:8
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=128 RealMemory=1000000 Gres=gpu:8
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
# A host name that is not loopback's: the daemons must listen on all addresses then
[ "$(getent ahostsv4 "$(hostname)" | awk 'NR == 1 {print $1}')" = 127.0.0.1 ] ||
    sed -i '/^CommunicationParameters/d' "$home/slurm.conf"
echo "NodeName=n[1-2] Name=gpu File=$home/gpu/[0-7]" >"$home/gres.conf"
echo "CgroupPlugin=cgroup/v1" >"$home/cgroup.conf"    # wanted, though nothing uses it
export SLURM_CONF=$home/slurm.conf

# ---------------------------------------------------------------------------------------------------------------------
# Start, run, stop
# ---------------------------------------------------------------------------------------------------------------------
lives() {    # a process that has ended, but that nobody has waited for, is a zombie (Z)
    local state
    state=$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null)
    [ -n "$state" ] && [ "$state" != Z ]
}

stop() {
    trap - EXIT INT TERM
    [ -s "$home/slurmctld.pid" ] && timeout 10 scancel --me --signal=KILL --full 2>/dev/null
    for file in "$home"/n2.pid "$home"/n1.pid "$home"/slurmctld.pid "$home"/munge/pid; do
        [ -s "$file" ] || continue
        pid=$(cat "$file")
        kill "$pid" 2>/dev/null
        for _ in {1..100}; do lives "$pid" || break; sleep 0.1; done
        lives "$pid" && kill -KILL "$pid"
    done
    if grep -q '# bert-slurm-tests$' /etc/hosts; then    # written in place: in a container, the file is a mount
        left=$(grep -v '# bert-slurm-tests$' /etc/hosts)
        printf '%s\n' "$left" >/etc/hosts
    fi
    rm -rf "$home"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() { echo "Slurm did not start: $1"; tail -n 5 "$home"/log/* "$home/munge/log" 2>/dev/null; exit 1; }

getent hosts n1 >/dev/null || echo "127.0.0.1 n1 n2 # bert-slurm-tests" >>/etc/hosts    # ranks meet at their first node
munged --socket="$home/munge/socket" --key-file="$home/munge/key" --pid-file="$home/munge/pid" \
    --log-file="$home/munge/log" --seed-file="$home/munge/seed" || fail munged
slurmctld || fail slurmctld
for node in n1 n2; do slurmd -N $node || fail "slurmd of $node"; done
for _ in {1..600}; do
    idle=$(sinfo --noheader --Node --states=idle --format=%N 2>/dev/null | wc -l)
    [ "$idle" = 2 ] && break
    sleep 0.1
done
[ "$idle" = 2 ] || fail "after a minute, $idle of 2 nodes are idle"

"$@"
