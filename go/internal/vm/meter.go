package vm

import (
	"sync/atomic"

	"rekindle/internal/tunnel"
	"rekindle/internal/wall"
)

// Meter counts what passes between a VM and the world. All of it is monotonic but Open.
type Meter struct {
	LastByteMS atomic.Int64 // wall clock of the last byte either way over the endpoint that is activity; 0 before the first
	BytesIn    atomic.Int64 // from clients to the app
	BytesOut   atomic.Int64 // from the app to clients
	Open       atomic.Int64 // authenticated requests under way
	Parked     atomic.Int64 // those of them that are WebSockets of a VM that sleeps
	EgressIn   atomic.Int64 // from outside to the guest, over connections the guest has opened
	EgressOut  atomic.Int64 // from the guest to outside
}

// Touch notes activity over the endpoint.
func (m *Meter) Touch() { m.LastByteMS.Store(wall.Now().UnixMilli()) }

// meteredConn counts what an app and its clients say to each other. Whether that is activity is for who forwards it to say.
type meteredConn struct {
	*tunnel.Conn
	meter *Meter
}

func (c *meteredConn) Read(data []byte) (int, error) {
	n, err := c.Conn.Read(data)
	c.count(&c.meter.BytesOut, n)
	return n, err
}

func (c *meteredConn) Write(data []byte) (int, error) {
	n, err := c.Conn.Write(data)
	c.count(&c.meter.BytesIn, n)
	return n, err
}

func (c *meteredConn) count(total *atomic.Int64, n int) {
	if n > 0 {
		total.Add(int64(n))
	}
}
