package tunnel

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// Peer is what a tunnel is joined to: a *net.TCPConn, or another tunnel.
type Peer interface {
	net.Conn
	CloseWrite() error
}

// lingerTimeout is how long a peer may go on after the other end has closed its tunnel.
const lingerTimeout = 5 * time.Second

// Splice copies both ways until both directions have ended, passing half-closes on, and closes both. A direction that fails cuts
// the other, and a TCP peer is reset then. It returns how many bytes went into the tunnel and how many came out.
func Splice(tunnel *Conn, peer Peer) (sent, received int64) {
	stop := context.AfterFunc(tunnel.gone, func() {
		peer.SetReadDeadline(time.Now().Add(lingerTimeout)) // fails only on a closed peer
	})
	defer stop()
	var both sync.WaitGroup
	both.Go(func() {
		n, err := tunnel.sendFrom(peer)
		sent = n
		finish(tunnel, peer, tunnel, err)
	})
	received, err := receiveInto(peer, tunnel)
	finish(tunnel, peer, peer, err)
	both.Wait()
	peer.Close() // whatever can still fail here has no one left to tell
	tunnel.Close()
	return sent, received
}

// finish passes the end of a direction on to its target, or cuts both sides when there was none.
func finish(tunnel *Conn, peer, target Peer, err error) {
	if err == nil {
		err = target.CloseWrite()
	}
	if err != nil {
		Reset(peer)
		tunnel.Reset()
	}
}

// Reset closes a connection; the other end of a TCP connection sees a reset rather than an orderly end.
func Reset(conn net.Conn) {
	switch conn := conn.(type) {
	case *Conn:
		conn.Reset()
	case interface{ SetLinger(sec int) error }: // a *net.TCPConn, or what wraps one
		conn.SetLinger(0) // fails only on a closed connection
	}
	conn.Close() // fails only on a closed connection
}

// frames holds buffers for one chunk with its header; a tunnel that only waits keeps one per direction.
var frames = sync.Pool{New: func() any {
	frame := make([]byte, headerLength+maxPayload)
	return &frame
}}

// sendFrom copies from into the tunnel until from ends. It reads right behind where the header goes: nothing is copied twice.
func (c *Conn) sendFrom(from io.Reader) (sent int64, err error) {
	frame := frames.Get().(*[]byte)
	defer frames.Put(frame)
	for {
		n, err := from.Read((*frame)[headerLength:])
		if n > 0 {
			if err := c.sendFrame((*frame)[:headerLength+n]); err != nil {
				return sent, err
			}
			sent += int64(n)
		}
		if err == io.EOF {
			return sent, nil
		}
		if err != nil {
			return sent, err
		}
	}
}

func (c *Conn) sendFrame(frame []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.writeFrame(frame)
}

func receiveInto(to io.Writer, tunnel *Conn) (received int64, err error) {
	buffer := frames.Get().(*[]byte)
	defer frames.Put(buffer)
	for {
		n, err := tunnel.Read(*buffer)
		if n > 0 {
			if _, err := to.Write((*buffer)[:n]); err != nil {
				return received, err
			}
			received += int64(n)
		}
		if err == io.EOF {
			return received, nil
		}
		if err != nil {
			return received, err
		}
	}
}
