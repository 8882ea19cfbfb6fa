// Package conns keeps connections that may have to be broken all at once.
package conns

import (
	"net"
	"sync"

	"rekindle/internal/tunnel"
)

// Set holds a bounded number of open connections.
type Set struct {
	limit int
	mu    sync.Mutex
	open  map[net.Conn]struct{}
	fewer sync.Cond
}

// New makes a set that takes up to limit connections.
func New(limit int) *Set {
	set := &Set{limit: limit, open: map[net.Conn]struct{}{}}
	set.fewer.L = &set.mu
	return set
}

// Add takes a connection, or says that the set is full.
func (s *Set) Add(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) >= s.limit {
		return false
	}
	s.open[conn] = struct{}{}
	return true
}

// Remove says that a connection is done with.
func (s *Set) Remove(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, conn)
	s.fewer.Broadcast()
}

// Len is how many connections there are.
func (s *Set) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// Reset breaks every connection that is in the set now and waits until all of them have been removed.
func (s *Set) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := make([]net.Conn, 0, len(s.open))
	for conn := range s.open {
		before = append(before, conn)
		tunnel.Reset(conn)
	}
	for _, conn := range before {
		for s.has(conn) {
			s.fewer.Wait()
		}
	}
}

func (s *Set) has(conn net.Conn) bool {
	_, open := s.open[conn]
	return open
}
