package jail

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"unsafe"
)

// Linux 5.12's mount calls have one number on every architecture. They add attributes to a mount and never clear one,
// which is what a user namespace allows without first finding out the flags of what is bound.
const (
	sysOpenTree     = 428
	sysMoveMount    = 429
	sysMountSetattr = 442

	openTreeClone   = 1
	moveMountFEmpty = 4
	atEmptyPath     = 0x1000
	atNoFollow      = 0x100
	atFDCWD         = -100

	attrReadOnly = 0x1
	attrNoSUID   = 0x2
	attrNoDev    = 0x4
	attrNoExec   = 0x8
)

// buildRoot makes a file system that holds the tree's /usr and what the specification binds, nothing else, and makes it
// the root. No /proc, no /sys, no /etc but the loader's cache; read-only but for the writable binds.
func buildRoot(spec *Spec) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	mounts, err := openAll(spec)
	if err != nil {
		return err
	}
	if err := syscall.Mount("jail", spec.Tree, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC,
		"size=256k,nr_inodes=256,mode=755"); err != nil {
		return fmt.Errorf("the jail's root: %w", err)
	}
	if err := furnish(spec.Tree, mounts); err != nil {
		return err
	}
	return pivot(spec.Tree)
}

// detached is a mount that is not attached anywhere yet.
type detached struct {
	fd     int
	target string
	folder bool
}

func openAll(spec *Spec) ([]detached, error) {
	usr, err := openDetached(filepath.Join(spec.Tree, "usr"), attrReadOnly|attrNoSUID|attrNoDev)
	if err != nil {
		return nil, err
	}
	all := []detached{{usr, "/usr", true}}
	cache := filepath.Join(spec.Tree, "etc/ld.so.cache")
	binds := append([]Bind{{Source: cache, Target: "/etc/ld.so.cache"}}, spec.Binds...)
	for _, bind := range binds {
		fd, err := openDetached(bind.Source, bind.attributes())
		if err != nil {
			return nil, err
		}
		all = append(all, detached{fd, bind.Target, false})
	}
	return all, nil
}

func (b Bind) attributes() uint64 {
	attributes := uint64(attrNoSUID | attrNoExec)
	if !b.Writable {
		attributes |= attrReadOnly
	}
	if !b.Device {
		attributes |= attrNoDev
	}
	return attributes
}

func furnish(root string, mounts []detached) error {
	for _, mount := range mounts {
		if err := attach(root, mount); err != nil {
			return fmt.Errorf("%s in the jail: %w", mount.target, err)
		}
	}
	for _, name := range []string{"bin", "lib", "lib64", "sbin"} {
		if err := os.Symlink("usr/"+name, filepath.Join(root, name)); err != nil {
			return err
		}
	}
	return nil
}

func attach(root string, mount detached) error {
	target := filepath.Join(root, mount.target)
	folder := target
	if !mount.folder {
		folder = filepath.Dir(target)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if !mount.folder {
		if err := os.WriteFile(target, nil, 0o444); err != nil {
			return err
		}
	}
	if err := moveMount(mount.fd, target); err != nil {
		return err
	}
	return syscall.Close(mount.fd)
}

// pivot makes root the root and lets the old one go; then root itself becomes read-only.
func pivot(root string) error {
	if err := syscall.Chdir(root); err != nil {
		return err
	}
	if err := syscall.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := syscall.Unmount(".", syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the old root: %w", err)
	}
	if err := syscall.Chdir("/"); err != nil {
		return err
	}
	return setAttributes(atFDCWD, "/", attrReadOnly)
}

// openDetached clones the mount of one file or folder, never through a symbolic link in its last part.
func openDetached(path string, attributes uint64) (int, error) {
	name, err := syscall.BytePtrFromString(path)
	if err != nil {
		return -1, err
	}
	fd, _, errno := syscall.Syscall(sysOpenTree, at(atFDCWD), uintptr(unsafe.Pointer(name)),
		openTreeClone|syscall.O_CLOEXEC|atNoFollow)
	if errno != 0 {
		return -1, fmt.Errorf("binding %s: %w", path, errno)
	}
	if err := setAttributes(int(fd), "", attributes); err != nil {
		return -1, fmt.Errorf("attributes of %s: %w", path, err)
	}
	return int(fd), nil
}

func setAttributes(fd int, path string, attributes uint64) error {
	name, err := syscall.BytePtrFromString(path)
	if err != nil {
		return err
	}
	attr := struct{ set, clear, propagation, userNS uint64 }{set: attributes}
	_, _, errno := syscall.Syscall6(sysMountSetattr, at(fd), uintptr(unsafe.Pointer(name)), atEmptyPath,
		uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func moveMount(fd int, target string) error {
	empty := new(byte)
	name, err := syscall.BytePtrFromString(target)
	if err != nil {
		return err
	}
	_, _, errno := syscall.Syscall6(sysMoveMount, at(fd), uintptr(unsafe.Pointer(empty)), at(atFDCWD),
		uintptr(unsafe.Pointer(name)), moveMountFEmpty, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func at(fd int) uintptr { return uintptr(fd) }
