package guesttest

import (
	"net"
	"sync"
	"time"
)

// session is one connection as a listener that hands it out once; closing the connection ends the session and leaves the socket open, as
// an agent keeps its port open.
type session struct {
	net.Conn
	handed  bool
	over    chan struct{}
	closing sync.Once
}

func newSession(conn net.Conn) *session { return &session{Conn: conn, over: make(chan struct{})} }

// Accept returns the connection, then waits for its end.
func (s *session) Accept() (net.Conn, error) {
	if !s.handed {
		s.handed = true
		return s, nil
	}
	<-s.over
	return nil, net.ErrClosed
}

// Close is both the listener's and the connection's: an HTTP server that shuts down closes the listener first, so only a connection
// that is read no more is at its end.
func (s *session) Close() error {
	s.closing.Do(func() {
		s.SetReadDeadline(time.Unix(1, 0))
		close(s.over)
	})
	return nil
}

func (s *session) Addr() net.Addr { return s.LocalAddr() }
