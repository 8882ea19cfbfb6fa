package channel

import (
	"bytes"
	"net"
	"time"
)

// lastWrite is what a session still has to say before it ends itself.
type lastWrite struct {
	body    []byte
	pending []byte
}

// CloseAfter ends the session with the answer whose body is given: everything written from now on is held back until the HTTP/2 frame
// that ends a stream with exactly this body is there. Then the session is closed, what was held back goes out, and only after
// that is the port free. So a host that has the answer knows that the guest is waiting for a sync frame: it may freeze it.
//
// The body must be short (one frame) and unlike any other answer that may end at the same time.
func (s *Session) CloseAfter(body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = &lastWrite{body: body}
}

func (s *Session) lastWrite() *lastWrite {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// holdBack is called as a write that has entered. HTTP/2 servers write from one goroutine at a time.
func (s *Session) holdBack(last *lastWrite, data []byte) (int, error) {
	last.pending = append(last.pending, data...)
	if !endsStreamWith(last.pending, last.body) {
		return len(data), s.leave(nil)
	}
	return len(data), s.closeWith(last.pending)
}

// lastWriteTimeout is how long a host may take to make room for the last bytes of a session.
const lastWriteTimeout = 2 * time.Second

// closeWith is Close by the goroutine of a write: it waits for the others only, then writes data and frees the port.
func (s *Session) closeWith(data []byte) error {
	if !s.endAsLast() {
		return net.ErrClosed
	}
	file := s.port.file
	err := file.SetDeadline(time.Now().Add(lastWriteTimeout))
	if err == nil {
		_, err = file.Write(data)
	}
	s.release()
	return err
}

// endAsLast ends the session from within a write and waits until that write is the only thing left of it.
func (s *Session) endAsLast() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.idle.Broadcast()
	s.busy--
	if s.over {
		return false
	}
	s.over = true
	s.port.file.SetDeadline(aLongTimeAgo) // a closed file fails its reads and writes anyway
	for s.busy > 0 {
		s.idle.Wait()
	}
	return true
}

const (
	frameHeaderLength = 9
	dataFrame         = 0x0
	endStreamFlag     = 0x1
)

// endsStreamWith tells whether data holds an HTTP/2 DATA frame with exactly this body that ends its stream.
func endsStreamWith(data, body []byte) bool {
	head := []byte{byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body)), dataFrame, endStreamFlag}
	for {
		at := bytes.Index(data, head)
		if at < 0 || len(data) < at+frameHeaderLength {
			return false
		}
		if bytes.HasPrefix(data[at+frameHeaderLength:], body) {
			return true
		}
		data = data[at+1:]
	}
}
