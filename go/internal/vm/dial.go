package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	dialPauseMin = 2 * time.Millisecond
	dialPauseMax = 50 * time.Millisecond
)

// dialUnix connects to a unix socket whose path may be longer than sun_path holds: it is reached through a descriptor of its folder.
func dialUnix(ctx context.Context, path string) (*peerConn, error) {
	const openPath = 0x200000 // O_PATH
	folder, err := syscall.Open(filepath.Dir(path), openPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer syscall.Close(folder)
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", folder, filepath.Base(path)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &peerConn{Conn: conn}, nil
}

// dialPatiently is dialUnix, again and again while nobody listens there yet. It returns the last failure when ctx ends.
func dialPatiently(ctx context.Context, path string) (*peerConn, error) {
	for pause := dialPauseMin; ; pause = min(2*pause, dialPauseMax) {
		conn, err := dialUnix(ctx, path)
		if err == nil || !notYet(err) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
	}
}

func notYet(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EAGAIN)
}

// peerConn remembers whether it was the peer that ended it.
type peerConn struct {
	net.Conn
	peerGone atomic.Bool
}

func (c *peerConn) Read(data []byte) (int, error) {
	n, err := c.Conn.Read(data)
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		c.peerGone.Store(true)
	}
	return n, err
}

func (c *peerConn) Write(data []byte) (int, error) {
	n, err := c.Conn.Write(data)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		c.peerGone.Store(true)
	}
	return n, err
}
