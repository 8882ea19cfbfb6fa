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
	begun   func() // called when the session's first bytes (its SETTINGS) are out
	begin   sync.Once
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

func (s *session) Write(data []byte) (int, error) {
	n, err := s.Conn.Write(data)
	s.begin.Do(s.begun)
	return n, err
}

// goAway is the HTTP/2 frame that ends a session in good order: no error, and every stream until now was answered (RFC 9113 §6.8).
var goAway = []byte{0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0}

// SayGoodbye ends the session while no request is open. (http.Server's Shutdown closes an idle connection at once, and its GOAWAY may come too late.)
func (s *session) SayGoodbye() {
	s.Conn.Write(goAway) // fails only when the host is gone
	s.Close()
}

// Close is both the listener's and the connection's. It ends what reads and leaves the socket open.
func (s *session) Close() error {
	s.closing.Do(func() {
		s.SetReadDeadline(time.Unix(1, 0))
		close(s.over)
	})
	return nil
}

func (s *session) Addr() net.Addr { return s.LocalAddr() }
