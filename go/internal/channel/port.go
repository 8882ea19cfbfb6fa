package channel

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Port is a guest's end of a channel: a virtio-serial port, opened once and kept open, that carries one session after another.
// It is a net.Listener: Accept waits for a host and its sync frame. The next session starts when the one before has been closed.
type Port struct {
	file *os.File
	free chan struct{} // holds a token while no session has the port
}

// OpenPort opens the device file of a virtio-serial port.
func OpenPort(path string) (*Port, error) {
	file, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return NewPort(file), nil
}

// NewPort makes a port of a stream file that supports deadlines.
func NewPort(file *os.File) *Port {
	port := &Port{file: file, free: make(chan struct{}, 1)}
	port.free <- struct{}{}
	return port
}

// Accept returns the next session, synced. It fails only when the port was closed or the device is broken.
func (p *Port) Accept() (net.Conn, error) {
	session, err := p.AcceptSession()
	if err != nil {
		return nil, err
	}
	return session, nil
}

// AcceptSession is Accept with the type that it returns.
func (p *Port) AcceptSession() (*Session, error) {
	<-p.free
	for {
		err := p.waitForHost()
		if err == nil {
			err = Answer(p.file)
		}
		if err == nil {
			return newSession(p), nil
		}
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			p.free <- struct{}{}
			return nil, err
		}
	}
}

// Close makes Accept fail. A session that is open breaks.
func (p *Port) Close() error { return p.file.Close() }

// Addr names the device file.
func (p *Port) Addr() net.Addr { return portAddr(p.file.Name()) }

// waitForHost returns when a host has opened the other end. A port without one reads EOF for ever, and the event that tells of
// a host says "writable", not "readable": so this waits as a writer does (as a reader it would sleep for ever).
func (p *Port) waitForHost() error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		var hungUp bool
		hungUp, failed = hasHungUp(fd)
		return !hungUp
	})
	return errors.Join(err, failed)
}

type pollFD struct {
	fd      int32
	events  int16
	revents int16
}

const pollHangUp = 0x10 // POLLHUP

func hasHungUp(fd uintptr) (bool, error) {
	poll := pollFD{fd: int32(fd)}
	var atOnce syscall.Timespec
	_, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&atOnce)), 0, 0, 0)
	if errno != 0 && errno != syscall.EINTR {
		return false, os.NewSyscallError("ppoll", errno)
	}
	return errno != 0 || poll.revents&pollHangUp != 0, nil
}

type portAddr string

func (portAddr) Network() string  { return "virtio-serial" }
func (a portAddr) String() string { return string(a) }

// aLongTimeAgo is a deadline that has passed.
var aLongTimeAgo = time.Unix(1, 0)

// Session is one session on a port. Closing it leaves the port open and free for the next one.
type Session struct {
	port *Port
	mu   sync.Mutex
	idle sync.Cond // no read or write of the port is going on
	busy int
	over bool
	done chan struct{} // closed once it is over and has said its last
	last *lastWrite
}

func newSession(port *Port) *Session {
	session := &Session{port: port, done: make(chan struct{})}
	session.idle.L = &session.mu
	return session
}

// Read reads from the host. It returns io.EOF when the host is gone and net.ErrClosed when the session was closed here.
func (s *Session) Read(data []byte) (int, error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	n, err := s.port.file.Read(data)
	return n, s.leave(err)
}

// Write writes to the host.
func (s *Session) Write(data []byte) (int, error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	if last := s.lastWrite(); last != nil {
		return s.holdBack(last, data)
	}
	n, err := s.port.file.Write(data)
	return n, s.leave(err)
}

func (s *Session) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return net.ErrClosed
	}
	s.busy++
	return nil
}

func (s *Session) leave(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	s.idle.Broadcast()
	if s.over {
		return net.ErrClosed
	}
	return err
}

// Close ends the session: what reads or writes it now fails, and once that has happened the port is free. It can be repeated.
func (s *Session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil
	}
	s.over = true
	err := s.port.file.SetDeadline(aLongTimeAgo)
	for s.busy > 0 {
		s.idle.Wait()
	}
	s.release()
	return err
}

// release gives the port to the next session.
func (s *Session) release() {
	s.port.file.SetDeadline(time.Time{}) // fails only when the port was closed, which Accept finds as well
	close(s.done)
	s.port.free <- struct{}{}
}

// Done is closed when the session has ended and all that it had to say is out.
func (s *Session) Done() <-chan struct{} { return s.done }

// SetDeadline, SetReadDeadline and SetWriteDeadline are net.Conn's; a session that is over fails anyway and leaves the port alone.
func (s *Session) SetDeadline(t time.Time) error { return s.deadline(s.port.file.SetDeadline, t) }
func (s *Session) SetReadDeadline(t time.Time) error {
	return s.deadline(s.port.file.SetReadDeadline, t)
}
func (s *Session) SetWriteDeadline(t time.Time) error {
	return s.deadline(s.port.file.SetWriteDeadline, t)
}

func (s *Session) deadline(set func(time.Time) error, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return net.ErrClosed
	}
	return set(t)
}

// LocalAddr and RemoteAddr both name the device file: a port has one end here and no name for the other.
func (s *Session) LocalAddr() net.Addr  { return s.port.Addr() }
func (s *Session) RemoteAddr() net.Addr { return s.port.Addr() }
