#!/busybox sh
# PID 1 of the outer VM. The kernel's command line has work=DIRECTORY, the checkout's;
# what is to run is the file script in there, what it prints goes to the port "output".
b=/busybox
$b mkdir -p /dev /proc /root
$b mount -t proc proc /proc
for word in $($b cat /proc/cmdline); do
    case $word in work=*) work=${word#work=} ;; esac
done
$b insmod /virtio_blk.ko
$b mount -t devtmpfs dev /dev
$b mount -t ext4 /dev/vda /root
for dir in proc sys dev run tmp; do
    $b mkdir -p /root/$dir
done
$b mount -t proc proc /root/proc
$b mount -t sysfs sys /root/sys
$b mount -t devtmpfs dev /root/dev
$b mkdir -p /root/dev/pts /root/dev/shm
$b ln -s /proc/self/fd /root/dev/fd
for n in 0:stdin 1:stdout 2:stderr; do
    $b ln -s "/proc/self/fd/${n%:*}" "/root/dev/${n#*:}"
done
$b mount -t devpts devpts /root/dev/pts
$b mount -t tmpfs -o mode=1777 tmp /root/dev/shm
$b mount -t tmpfs -o mode=755 run /root/run
$b mount -t cgroup2 cgroup /root/sys/fs/cgroup
$b mkdir -p /root"$work"
$b mount -t ext4 /dev/vdb /root"$work"
$b ifconfig lo 127.0.0.1 up
$b hostname outer
echo '127.0.0.1 localhost outer' >/root/etc/hosts
cat >/root/run/main <<'END'
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
modprobe kvm halt_poll_ns=0
modprobe kvm-amd
cd "$1"
[ -e .owned ] || { chown -R 0:0 . && : >.owned; }
while sleep 15; do
    echo "outer: alive"
done &
(. ./script)
echo "outer: ended with $?"
kill $!
END
# The port comes when the driver and QEMU have talked.
until [ -c /root/dev/vport0p1 ]; do
    $b usleep 10000
done
# Tests want files of a disk, not of memory, in their temporary directory.
$b chroot /root /usr/bin/sh /run/main "$work" >/root/dev/vport0p1 2>&1 </dev/null
$b sync
$b umount /root"$work" || $b mount -o remount,ro /root"$work"
$b poweroff -f
