// Package keep holds the listening sockets of `rekindle serve` while that is away: the kernel goes on to accept connections, and the next serve
// answers them. A client sees a slow answer where it would see a refusal (docs/contracts.md §7).
package keep

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	maxSockets      = 16
	maxRequestBytes = 4096
	exchangeTimeout = 5 * time.Second
	acceptPause     = 100 * time.Millisecond
)

// request is the one line that a client writes. Keep names the descriptors that come with it; Take asks for all that is kept.
type request struct {
	Keep []string `json:"keep,omitempty"`
	Take bool     `json:"take,omitempty"`
}

// answer is the one line that it reads. Descriptors come with it in the order of Kept.
type answer struct {
	Kept  []string `json:"kept,omitempty"`
	Error string   `json:"error,omitempty"`
}

// Keeper holds sockets by name.
type Keeper struct {
	mu   sync.Mutex
	kept map[string]int
}

// New returns a keeper of nothing.
func New() *Keeper { return &Keeper{kept: map[string]int{}} }

// Accepter gives connections of our own user.
type Accepter interface{ Accept() (net.Conn, error) }

// Serve answers clients until the listener is closed. Each connection is one request and one answer.
func (k *Keeper) Serve(listener Accepter) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptors are left, or the like: it passes
			slog.Warn("a request to keep sockets was not accepted", "error", err)
			time.Sleep(acceptPause)
			continue
		}
		go k.exchange(conn.(*net.UnixConn))
	}
}

// Close lets go of every socket.
func (k *Keeper) Close() { k.put(nil, nil) }

func (k *Keeper) exchange(conn *net.UnixConn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(exchangeTimeout)) // fails only on a closed connection
	asked, fds, err := read(conn)
	if err != nil {
		closeAll(fds)
		slog.Warn("a request to keep sockets could not be read", "error", err)
		write(conn, answer{Error: err.Error()}, nil)
		return
	}
	if asked.Take {
		k.give(conn)
		return
	}
	k.put(asked.Keep, fds)
	write(conn, answer{Kept: asked.Keep}, nil)
}

// put replaces everything that was kept before: what the new serve does not listen on, nobody shall. No names: nothing is kept.
func (k *Keeper) put(names []string, fds []int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, fd := range k.kept {
		syscall.Close(fd)
	}
	k.kept = make(map[string]int, len(names))
	for i, name := range names {
		k.kept[name] = fds[i]
	}
}

// give sends duplicates; the kept ones stay until they are replaced.
func (k *Keeper) give(conn *net.UnixConn) {
	names, fds, err := k.duplicates()
	defer closeAll(fds)
	if err != nil {
		slog.Warn("kept sockets could not be given", "error", err)
		write(conn, answer{Error: err.Error()}, nil)
		return
	}
	write(conn, answer{Kept: names}, fds)
}

// duplicates are the caller's to close, also when it fails. They are made under the lock, and sent without it.
func (k *Keeper) duplicates() ([]string, []int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	names := slices.Sorted(maps.Keys(k.kept))
	var fds []int
	for _, name := range names {
		fd, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(k.kept[name]), syscall.F_DUPFD_CLOEXEC, 0)
		if errno != 0 {
			return nil, fds, errno
		}
		fds = append(fds, int(fd))
	}
	return names, fds, nil
}

// read returns the descriptors even when it fails: they are the caller's to close.
func read(conn *net.UnixConn) (request, []int, error) {
	var asked request
	data, control := make([]byte, maxRequestBytes), make([]byte, syscall.CmsgSpace(maxSockets*4))
	n, controlN, flags, _, err := conn.ReadMsgUnix(data, control)
	if err != nil {
		return asked, nil, err
	}
	fds, err := received(control[:controlN])
	if err != nil {
		return asked, fds, err
	}
	if flags&syscall.MSG_CTRUNC != 0 {
		return asked, fds, fmt.Errorf("more than %d sockets", maxSockets)
	}
	decoder := json.NewDecoder(bytes.NewReader(data[:n]))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&asked); err != nil {
		return asked, fds, err
	}
	return asked, fds, check(asked, fds)
}

func received(control []byte) ([]int, error) {
	messages, err := syscall.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, message := range messages {
		rights, err := syscall.ParseUnixRights(&message)
		if err != nil {
			return fds, err
		}
		for _, fd := range rights {
			syscall.CloseOnExec(fd)
		}
		fds = append(fds, rights...)
	}
	return fds, nil
}

func check(asked request, fds []int) error {
	if asked.Take != (asked.Keep == nil) {
		return errors.New("either keep or take")
	}
	if len(asked.Keep) != len(fds) {
		return fmt.Errorf("%d names for %d descriptors", len(asked.Keep), len(fds))
	}
	for i, name := range asked.Keep {
		if slices.Contains(asked.Keep[:i], name) {
			return fmt.Errorf("%q twice", name)
		}
		if listening, err := syscall.GetsockoptInt(fds[i], syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN); err != nil || listening == 0 {
			return fmt.Errorf("%q is not a listening socket", name)
		}
	}
	return nil
}

func write(conn *net.UnixConn, said answer, fds []int) {
	line, err := json.Marshal(said)
	if err != nil {
		panic(err)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = syscall.UnixRights(fds...)
	}
	if _, _, err := conn.WriteMsgUnix(append(line, '\n'), rights, nil); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		slog.Warn("an answer about kept sockets was not read", "error", err)
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		syscall.Close(fd)
	}
}
