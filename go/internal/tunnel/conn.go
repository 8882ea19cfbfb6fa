package tunnel

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// closeTimeout is how long Close tries to tell the peer that this direction has ended before it cuts the tunnel.
const closeTimeout = time.Second

// Conn is one end of a tunnel: a net.Conn with CloseWrite. One goroutine may read while another writes.
//
// Deadlines are stricter than net.Conn's: one that passes cuts the tunnel for good.
type Conn struct {
	reader  chunkReader
	carrier carrier
	name    addr
	gone    context.Context // done when the stream below is

	writing    sync.Mutex
	frame      []byte // header and payload of the chunk being written
	writeEnded atomic.Bool
	closed     atomic.Bool

	readLimit  limit
	writeLimit limit
}

// carrier is the HTTP/2 stream below a Conn.
type carrier interface {
	// Write returns when the stream has taken the data.
	io.Writer
	// end is called once, after the end chunk was written; when it returns, that chunk is on its way, whatever follows.
	end()
	// close ends the tunnel with finish, which sends the end chunk, and leaves nothing blocked.
	close(finish func())
	// cut ends the stream in both directions and makes blocked reads and writes fail. It can be repeated.
	cut()
}

func newConn(gone context.Context, body io.Reader, carrier carrier, authority string) *Conn {
	conn := &Conn{reader: chunkReader{r: body}, carrier: carrier, name: addr(authority), gone: gone}
	conn.readLimit.strike, conn.writeLimit.strike = carrier.cut, carrier.cut
	return conn
}

// Read returns io.EOF when the peer has closed its direction, and io.ErrUnexpectedEOF or the stream's error when the tunnel was cut.
func (c *Conn) Read(data []byte) (int, error) {
	n, err := c.reader.Read(data)
	return n, c.readLimit.explain(err)
}

// Write sends data; it returns when the stream has taken it.
func (c *Conn) Write(data []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	if c.frame == nil {
		c.frame = make([]byte, headerLength+maxPayload)
	}
	sent := 0
	for sent < len(data) {
		n := copy(c.frame[headerLength:], data[sent:])
		if err := c.writeFrame(c.frame[:headerLength+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}

// writeFrame sends one chunk: room for the header and the payload behind it. The caller holds c.writing.
func (c *Conn) writeFrame(frame []byte) error {
	if c.writeEnded.Load() {
		return net.ErrClosed
	}
	putHeader(frame)
	_, err := c.carrier.Write(frame)
	return c.writeLimit.explain(err)
}

// CloseWrite ends this side's direction; the other goes on. It can be repeated.
func (c *Conn) CloseWrite() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.writeEnded.Load() {
		return nil
	}
	err := c.writeFrame(make([]byte, headerLength))
	c.writeEnded.Store(true)
	if err != nil {
		return err
	}
	c.carrier.end()
	return nil
}

// Close ends the tunnel as closing a TCP connection does: the peer reads all that was written and then the end; what it still writes is
// lost. Blocked reads and writes fail soon after. It does not wait, and can be repeated.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.readLimit.set(time.Time{})
	c.writeLimit.set(time.Time{})
	if c.writeEnded.Load() && c.reader.ended.Load() {
		c.carrier.close(func() {})
		return nil
	}
	c.carrier.close(c.finishWriting)
	return nil
}

func (c *Conn) finishWriting() {
	timer := time.AfterFunc(closeTimeout, c.carrier.cut)
	defer timer.Stop()
	c.CloseWrite() // a peer that cannot be told any more finds the tunnel cut
}

// Reset cuts the tunnel: whatever is under way in either direction is lost, and the peer knows it.
func (c *Conn) Reset() {
	c.closed.Store(true)
	c.carrier.cut()
}

// LocalAddr and RemoteAddr both tell the authority that was asked for.
func (c *Conn) LocalAddr() net.Addr  { return c.name }
func (c *Conn) RemoteAddr() net.Addr { return c.name }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	c.readLimit.set(t)
	c.writeLimit.set(t)
	return nil
}

// SetReadDeadline cuts the tunnel at t; the zero time takes the deadline back.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.readLimit.set(t)
	return nil
}

// SetWriteDeadline cuts the tunnel at t; the zero time takes the deadline back.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.writeLimit.set(t)
	return nil
}

type addr string

func (addr) Network() string  { return "tunnel" }
func (a addr) String() string { return string(a) }
