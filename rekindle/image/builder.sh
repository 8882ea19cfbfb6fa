# Runs as the init of a build's namespaces (buildbox.py). Arguments: the toolbox tree, then NAME=FOLDER for each folder that
# the build sees as /rk/NAME. First line out: its pid as the machine counts it. First line in: the resolver's address; until
# then there is no network. Then it becomes /rk/work/inside.sh, in a writable view of the tree that nobody else sees.
set -eu
IFS=' ' read -r pid rest </proc/self/stat
echo "$pid"
read -r resolver
exec </dev/null
tree=$1
shift

for given; do
  case $given in work=*) work=${given#*=} ;; esac
done
mkdir -p "$work/mnt"
mount -t tmpfs -o mode=755 tmpfs "$work/mnt"
cd "$work/mnt"
mkdir tree upper scratch root
mount --bind "$tree" tree
mount -t overlay -o lowerdir=tree,upperdir=upper,workdir=scratch overlay root
cd root

mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
# An ordinary user's builds (the id map says so) have no cgroup of their own, and may own others there: hands off.
read -r _ outside _ </proc/self/uid_map
if [ "$outside" != 0 ]; then
  while read -r _ _ _ _ place _; do
    case $place in "$work"/mnt/root/sys/fs/cgroup*) mount -o remount,bind,ro "$place" ;; esac
  done </proc/self/mountinfo
fi
mount -t tmpfs -o mode=755,nosuid tmpfs dev
mkdir dev/pts dev/shm dev/mqueue
for node in null zero full random urandom tty; do
  : >dev/$node
  mount --bind /dev/$node dev/$node
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t mqueue mqueue dev/mqueue
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp

for given; do
  name=${given%%=*}
  mkdir -p "rk/$name"
  mount --bind "${given#*=}" "rk/$name"
  [ "$name" != base ] || mount -o remount,bind,ro "rk/$name"
done
# buildah opens what `RUN --mount=type=bind` names for writing: let it, but keep the context as it is.
mkdir ../context-upper ../context-scratch
(cd .. && mount -t overlay -o lowerdir=root/rk/context,upperdir=context-upper,workdir=context-scratch overlay root/rk/context)
cp -r rk/work/files rk/files # runc cannot mount them read-only from a disk that is nosuid or nodev for its user
cp rk/work/etc/hosts etc/hosts
rm -f etc/resolv.conf
echo "nameserver $resolver" >etc/resolv.conf
mount -t tmpfs tmpfs etc/containers/registries.conf.d # in a user namespace, overlays on tmpfs cannot remove folders
cp rk/work/etc/storage.conf rk/work/etc/registries.conf rk/work/etc/containers.conf etc/containers/
mkdir -p rk/helpers
ln -s /usr/bin/false rk/helpers/netavark # looked for at every start, never run
chroot . hostname build
exec chroot . sh -eu /rk/work/inside.sh
