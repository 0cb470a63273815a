# shellcheck shell=bash
# Minimal Debian machines in folders, for the two rehearsals beside this file; they source it. It needs root.
#
# Nothing here knows this machine: the mirror is that of apt's sources (or MIRROR=…), proxies are apt's and the
# environment's, pip's index is that of its configuration and PIP_… variables, and certificates that were added to
# this machine are added there.

die() {
  echo "$*" >&2
  exit 2
}

# Goes on in a mount namespace of its own: whatever is mounted from here on is gone when the script ends, however
# it ends, and nobody else sees it.
with_own_mounts() {
  [ "$(id -u)" = 0 ] || die 'a root folder is made by root: sudo'
  command -v debootstrap >/dev/null || die 'debootstrap is missing; on Debian and Ubuntu: apt install debootstrap'
  [ -n "${OWN_MOUNTS-}" ] || OWN_MOUNTS=1 exec unshare --mount --propagation private "$@"
}

mirror() {
  [ -n "${MIRROR-}" ] || MIRROR=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Origin: Debian' | head -n 1)
  echo "$MIRROR"  # none: debootstrap knows one
}

# make_root SUITE BASE ROOT PACKAGE…: unpacks a minimal Debian in BASE, unless it is there, and copies it to ROOT.
make_root() {
  local suite=$1 base=$2 root=$3 from
  shift 3
  if [ ! -e "$base/made" ]; then
    rm -rf --one-file-system "$base"
    mkdir -p "$base"
    from=$(mirror)
    (IFS=, && debootstrap --variant=minbase --include="$*" "$suite" "$base/root" ${from:+"$from"}) >"$base/log" 2>&1 ||
      die "debootstrap failed: $base/log"
    touch "$base/made"
  fi
  rm -rf --one-file-system "$root"
  cp -a "$base/root" "$root"
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mount -t sysfs sysfs "$root/sys" 2>/dev/null || true  # not every sandbox may
  cp /etc/resolv.conf /etc/hosts "$root/etc/"
  { apt-config dump | grep -Ei '^Acquire::(https?::|Check-|Retries)' || true; } >"$root/etc/apt/apt.conf.d/90rehearsal"
  if [ -n "$(ls /usr/local/share/ca-certificates 2>/dev/null)" ]; then
    cp -a /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
    chroot "$root" update-ca-certificates >/dev/null 2>&1
  fi
  [ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/pip.conf"
  for from in "${HOME:-/root}/.config/pip/pip.conf" "${HOME:-/root}/.pip/pip.conf"; do
    [ ! -e "$from" ] || cat "$from" >>"$root/etc/pip.conf"
  done
}

# inside ROOT USER FOLDER [NAME=VALUE…] PROGRAM ARGUMENT…: as that user, with nothing of this shell's environment
# but where packages come from. With REPLACE=exec the program takes the place of the shell, and so its process id.
inside() {
  local root=$1 user=$2 folder=$3 name
  shift 3
  local kept=()
  for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_CERT PIP_PROXY PIP_DEFAULT_TIMEOUT \
    http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    [ -z "${!name-}" ] || kept+=("$name=${!name}")
  done
  ${REPLACE-} chroot --userspec="$user" "$root" /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin LANG=C.UTF-8 \
    "${kept[@]}" /usr/bin/env -C "$folder" "$@"
}

install_packages() {
  local root=$1
  shift
  inside "$root" root / DEBIAN_FRONTEND=noninteractive sh -c 'apt-get update -qq && apt-get install --yes -qq --no-install-recommends "$@"' sh "$@" >/dev/null
}
