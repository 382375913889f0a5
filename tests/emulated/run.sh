#!/bin/sh
# Runs the tests of the kernels, and a training, on a CPU that this machine does not have. See README.md.
# usage: run.sh [MODEL], a CPU model of Bochs
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work="$root/target/emulated"
model=${1:-sapphire_rapids}
bochs=${BOCHS:-bochs}
# Where Debian packages are, if not installed but extracted somewhere.
packages=${PACKAGES:-}
BXSHARE=${BXSHARE:-$packages/usr/share/bochs}
export BXSHARE
kernel=${KERNEL:-$(ls "$packages"/boot/vmlinuz-* | tail -n 1)}
busybox=$(PATH="$packages/bin:$packages/usr/bin:$PATH" command -v busybox)

# Executables that need no libraries of the guest.
host=$(rustc -vV | sed -n 's/^host: //p')
executables="$root/target/$host/release"
cd "$root"
RUSTFLAGS='-C target-feature=+crt-static'
export RUSTFLAGS
cargo build --release --locked --target "$host" --package onnx-qat-cli
tests=$(cargo test --release --locked --target "$host" --package onnx-qat-kernels --lib --no-run 2>&1 |
  sed -n 's/.*Executable .*(\(.*\))$/\1/p')

rm -rf "$work"
mkdir -p "$work/guest/bin" "$work/cd"
cp "$busybox" "$work/guest/bin/"
cp "$here/init" "$work/guest/"
cp "$tests" "$work/guest/kernels-tests"
cp "$executables/onnx-qat" fixtures/digits/digits_cnn.onnx fixtures/digits/digits.npz "$work/guest/"
(cd "$work/guest" && find . | cpio --quiet -o -H newc) | gzip -1 >"$work/cd/initrd.gz"

cp "$kernel" "$work/cd/vmlinuz"
cp "$packages/usr/lib/ISOLINUX/isolinux.bin" "$packages/usr/lib/syslinux/modules/bios/ldlinux.c32" "$work/cd/"
# Without these features Linux gets along with Bochs 3.0: FSRM (580), which says that strings are fast where a setting says that
# they are not, and Linux's memmove overruns; AMX (600); page tables of five levels. And the oldest clocks and interrupts do.
cat >"$work/cd/isolinux.cfg" <<END
serial 0 115200
default guest
label guest
kernel vmlinuz
append initrd=initrd.gz console=ttyS0,115200 clearcpuid=580,600 no5lvl noapic nolapic hpet=disable notsc clocksource=jiffies lpj=500000 idle=halt mitigations=off random.trust_cpu=on panic=-1
END
xorriso -as mkisofs -quiet -o "$work/cd.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table \
  "$work/cd"

cat >"$work/bochsrc" <<END
config_interface: textconfig
display_library: rfb, options="timeout=0"
cpu: model=$model, count=1, ips=100000000, ignore_bad_msrs=1
memory: guest=2048, host=2048
romimage: file=$BXSHARE/BIOS-bochs-latest, options=fastboot
vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=$work/cd.iso, status=inserted
boot: cdrom
clock: sync=none
com1: enabled=1, mode=file, dev=$work/console
log: $work/bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
END
: >"$work/console"
nice -n 19 "$bochs" -q -f "$work/bochsrc" </dev/null >"$work/bochs.out" 2>&1 &
emulator=$!
tail --pid="$emulator" -n +1 -f "$work/console" | sed '/^guest: end/q'
kill "$emulator" 2>/dev/null || true
grep -q '^guest: end, all passed' "$work/console"
