#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds the module in a folder of its own. Usage: build.sh SOURCE_ROOT WORK_FOLDER
set -eu
source=$1
work=$2
headers=$(find /usr/src -maxdepth 1 -name 'linux-headers-*-amd64' | sort -V | tail -n 1)
if [ -z "$headers" ]; then
  echo "no kernel headers: run scripts/setup" >&2
  exit 1
fi
rm -rf "$work"
mkdir -p "$work"
cp "$source/tests/kmod_layout/Kbuild" "$source/tests/kmod_layout/layout_check.c" "$work/"
make -C "$headers" M="$work" DMREMAP_SOURCE="$source" modules >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
test -s "$work/layout_check.ko"
rm -rf "$work"
