# Runs in the toolbox tree as the init of a build (builder.sh): Dockerfile -> image -> root.erofs. `phase` says how far it
# came. The lists in /rk/work/args have one argument a line.
buildah rm --all >/dev/null # of builds that were killed
{ read -r base && read -r name; } </rk/work/base
buildah tag "$base" "$name" # today's base image, under the name that Dockerfiles have an alias for
echo build >/rk/work/phase
set --
while IFS= read -r line; do set -- "$@" "$line"; done </rk/work/args
buildah build "$@"

echo export >/rk/work/phase
image=$(cat /rk/work/image-id)
buildah inspect --type image "$image" >/rk/work/image.json
container=$(buildah from --pull=never "$image")
root=$(buildah mount "$container")
# What the runtime made to mount our files on, where the image had nothing (an empty file, an empty folder).
while IFS= read -r path; do
  parent=$(dirname "$root$path")
  [ "$(readlink -f "$parent" || true)" = "$parent" ] || continue
  if [ -f "$root$path" ] && [ ! -L "$root$path" ] && [ ! -s "$root$path" ]; then rm "$root$path"; fi
  if [ -d "$root$path" ] && [ ! -L "$root$path" ]; then rmdir "$root$path" 2>/dev/null || true; fi
done </rk/work/mount-points
for key in "$root"/etc/ssh/ssh_host_*_key; do
  [ -f "$key" ] || continue
  echo "WARNING: ${key#"$root"} is part of the image: all its microVMs would have this SSH host key. Remove it and make one in the /run hook"
done
du --summarize --bytes "$root" | cut -f1 >/rk/work/root-bytes
mkfs.erofs --quiet /rk/out/root.erofs.part "$root"
sync /rk/out/root.erofs.part
buildah umount "$container" >/dev/null
buildah rm "$container" >/dev/null
echo done >/rk/work/phase
