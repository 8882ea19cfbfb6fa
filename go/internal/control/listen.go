// Package control is how `rekindle serve` steers the relay: HTTP on a unix socket (docs/contracts.md §4).
package control

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// ErrTaken says that another relay serves this socket.
var ErrTaken = errors.New("another relay serves this socket")

// Listener accepts connections of our own user only.
type Listener struct {
	*net.UnixListener
	path string
	lock *os.File
}

// Listen makes the socket, mode 0600, in a folder that only we can enter, replacing one that a dead relay has left. It fails with ErrTaken
// while another relay holds the lock beside it.
func Listen(path string) (*Listener, error) {
	if err := ownFolder(filepath.Dir(path)); err != nil {
		return nil, err
	}
	lock, err := takeLock(path + ".lock")
	if err != nil {
		return nil, err
	}
	listener, err := bind(path)
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &Listener{listener, path, lock}, nil
}

// Beside makes another socket in the same folder, under the same lock.
func (l *Listener) Beside(name string) (*Listener, error) {
	path := filepath.Join(filepath.Dir(l.path), name)
	listener, err := bind(path)
	if err != nil {
		return nil, err
	}
	return &Listener{listener, path, l.lock}, nil
}

func ownFolder(folder string) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(folder)
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if info.Mode().Perm()&0o077 != 0 || int(owner) != os.Geteuid() {
		return fmt.Errorf("%s must be ours and have mode 0700, not %v of uid %d", folder, info.Mode().Perm(), owner)
	}
	return nil
}

// takeLock holds the lock file until it is closed: by us, or by the kernel when we die.
func takeLock(path string) (*os.File, error) {
	lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrTaken
		}
		return nil, err
	}
	return lock, nil
}

// bind reaches the socket through a descriptor of its folder: a path may be longer than sun_path holds.
func bind(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	short := fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), filepath.Base(path))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false) // its name for the socket is not valid for long
	if err := os.Chmod(path, 0o600); err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}

// Accept returns the next connection of our own user; others are closed.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(conn)
		if err == nil && uid == os.Geteuid() {
			return conn, nil
		}
		slog.Warn("refused a control connection", "uid", uid, "error", err)
		conn.Close()
	}
}

func peerUID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	var peer *syscall.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		peer, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(err, failed); err != nil {
		return -1, err
	}
	return int(peer.Uid), nil
}

// Close takes the socket away; the lock stays until Unlock, for what the old relay holds is not free yet. It can be repeated.
func (l *Listener) Close() error {
	err := l.UnixListener.Close()
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	return errors.Join(err, os.Remove(l.path))
}

// Unlock lets the next relay start.
func (l *Listener) Unlock() error { return l.lock.Close() }
