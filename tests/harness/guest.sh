#!/bin/sh
# The first process of the virtual machine that vm.sh makes a disk for. Arranges cgroups the way systemd does, then does
# what it is told on its one virtio port: `CGROUP UID LENGTH` and a script of that length are answered by
# `CODE LENGTH LENGTH` and what the script wrote to stdout and stderr.
export PATH=/opt/layerfs:/usr/bin:/bin:/sbin

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
mount --make-rshared /
hostname guest
ip link set lo up

# Whoever made the disk owns its files until now.
chown -R 0:0 /bin /etc /layout /opt /root /sbin /usr /var
chown -R 1000:1000 /home/user
chmod 4755 /usr/bin/newuidmap /usr/bin/newgidmap
chmod 1777 /tmp
mkdir -p /run/user/1000
chmod 700 /run/user/1000 /root
chown 1000:1000 /run/user/1000

# hand_down CGROUP…: makes each, with its controllers for those below. The one above has to have done that before.
hand_down() { for group; do mkdir -p "/sys/fs/cgroup$group"; echo "+cpu +memory +pids" >"/sys/fs/cgroup$group/cgroup.subtree_control"; done; }
# delegate CGROUP: what systemd does for Delegate=yes and User=user.
delegate() { for file in . cgroup.procs cgroup.subtree_control cgroup.threads; do chown 1000:1000 "/sys/fs/cgroup$1/$file"; done; }

mkdir /sys/fs/cgroup/init.scope
echo 1 >/sys/fs/cgroup/init.scope/cgroup.procs
hand_down "" /system.slice /user.slice /user.slice/user-0.slice /user.slice/user-1000.slice
# A login of root's and one of the user's: nothing of it is the user's own.
mkdir /sys/fs/cgroup/user.slice/user-0.slice/session-1.scope /sys/fs/cgroup/user.slice/user-1000.slice/session-2.scope
# What the user's own systemd has, and a program that it started.
manager=/user.slice/user-1000.slice/user@1000.service
hand_down $manager $manager/app.slice
mkdir /sys/fs/cgroup$manager/app.slice/terminal.scope
delegate $manager
delegate $manager/app.slice
delegate $manager/app.slice/terminal.scope
# A service of the machine that runs as the user with Delegate=yes: the one cgroup it has is the one it is in.
mkdir /sys/fs/cgroup/system.slice/worker.service
delegate /system.slice/worker.service

# No serial port: those drop what comes in while the machine is busy.
set -- /dev/vport*p1
exec <>"$1" >&0
echo ready
while read -r cgroup uid length; do
    script=$(head -c "$length")
    home=/root user=root runtime=
    [ "$uid" = 0 ] || home=/home/user user=user runtime=/run/user/1000
    (
        echo 0 >"/sys/fs/cgroup$cgroup/cgroup.procs" && cd $home &&
            exec /sbin/setpriv --reuid "$uid" --regid "$uid" --init-groups env -i PATH="$PATH" HOME="$home" USER="$user" \
                ${runtime:+XDG_RUNTIME_DIR=$runtime} sh -euc "$script"
    ) </dev/null >/tmp/stdout 2>/tmp/stderr
    echo "$? $(wc -c </tmp/stdout) $(wc -c </tmp/stderr)"
    cat /tmp/stdout /tmp/stderr
done
