// Package boot turns a bare kernel with an initramfs into a guest that can run an application: file systems, modules, disks, ports.
package boot

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// Where things are, in the agent's own file system.
const (
	Rootfs   = "/run/rekindle/root"  // the application's file system: the image with the writable disk over it
	Files    = "/run/rekindle/files" // what covers files of the image
	image    = "/run/rekindle/image" // the root disk
	writable = "/run/rekindle/disk"  // the writable disk
	moduleAt = "/lib/modules"        // in the initramfs
	order    = moduleAt + "/order"   // one file name a line, with options
)

// Mounts makes the machine's own file systems, on a root that can be pivoted away from.
func Mounts() error {
	if err := stackRoot(); err != nil {
		return err
	}
	const plain = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC
	for _, m := range []struct {
		kind, target string
		flags        uintptr
		options      string
	}{
		{"proc", "/proc", plain, ""},
		{"sysfs", "/sys", plain, ""},
		{"devtmpfs", "/dev", syscall.MS_NOSUID, "mode=0755"},
		{"devpts", "/dev/pts", syscall.MS_NOSUID | syscall.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{"tmpfs", "/run", syscall.MS_NOSUID | syscall.MS_NODEV, "mode=0755,size=1m"},
		{"cgroup2", "/sys/fs/cgroup", plain, ""},
	} {
		if err := mount(m.kind, m.target, m.kind, m.flags, m.options); err != nil {
			return err
		}
	}
	return nil
}

// stackRoot puts a bind mount of the initramfs over itself: the kernel refuses pivot_root on the very first mount.
func stackRoot() error {
	const beside = "/root.again"
	if err := mount("/", beside, "", syscall.MS_BIND, ""); err != nil {
		return err
	}
	if err := os.Chdir(beside); err != nil {
		return err
	}
	if err := syscall.Mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root mount: %w", err)
	}
	return syscall.Chroot(".")
}

func mount(source, target, kind string, flags uintptr, options string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}

// Overlay mounts the two disks and joins them: the image below, read-only, and the writable disk above.
func Overlay() error {
	imageDisk, err := findDisk("root")
	if err != nil {
		return err
	}
	writableDisk, err := findDisk("disk")
	if err != nil {
		return err
	}
	if err := mount(imageDisk, image, "erofs", syscall.MS_RDONLY|syscall.MS_NODEV|syscall.MS_NOATIME, ""); err != nil {
		return err
	}
	if err := mount(writableDisk, writable, "ext4", syscall.MS_NODEV|syscall.MS_NOATIME, ""); err != nil {
		return err
	}
	upper, work := writable+"/upper", writable+"/work"
	for _, dir := range []string{upper, work, Files} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", image, upper, work)
	return mount("overlay", Rootfs, "overlay", syscall.MS_NODEV|syscall.MS_NOATIME, options)
}

// findDisk returns the device file of the disk with a serial number.
func findDisk(serial string) (string, error) {
	disks, err := os.ReadDir("/sys/block")
	if err != nil {
		return "", err
	}
	for _, disk := range disks {
		text, err := os.ReadFile("/sys/block/" + disk.Name() + "/serial")
		if err == nil && strings.TrimSpace(string(text)) == serial {
			return "/dev/" + disk.Name(), nil
		}
	}
	return "", fmt.Errorf("no disk has the serial number %q", serial)
}

// Flag tells whether the kernel's command line holds a word.
func Flag(word string) bool {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return false // not mounted: too early to be asked
	}
	for _, field := range strings.Fields(string(text)) {
		if field == word {
			return true
		}
	}
	return false
}

// Protect keeps the kernel from killing the agent for want of memory, and lets applications other than root use low ports and ping, as
// Docker does.
func Protect() error {
	for path, value := range map[string]string{
		"/proc/self/oom_score_adj":                      "-1000",
		"/proc/sys/net/ipv4/ip_unprivileged_port_start": "0",
		"/proc/sys/net/ipv4/ping_group_range":           "0 2147483647",
	} {
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}

// PowerOff writes everything to the disks and switches the machine off. It returns only when the kernel refuses.
func PowerOff() error {
	syscall.Sync()
	return os.NewSyscallError("reboot", syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF))
}
