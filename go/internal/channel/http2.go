// Package channel is the wire between the relay and a guest: a byte stream (a unix socket on the host, a virtio-serial port in the
// guest) that starts with a sync frame (Greet on the host, Answer in the guest) and then carries one cleartext HTTP/2 session.
//
// Host:  dial, Greet, then NewClient (port in) or Serve (port out).
// Guest: OpenPort, then an http.Server from NewServer on it (port in), or Accept and NewClient in a loop (port out).
package channel

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
)

const (
	// MaxTunnels is how many tunnels a session carries at once; the next one is refused, so that other requests always have room.
	MaxTunnels = 1024
	maxStreams = MaxTunnels + 64
	// A stream that nobody reads keeps its window of the connection's. The connection's holds them all, so that stalled tunnels never stop
	// anything else; it also bounds what a session holds in memory.
	streamWindow     = 64 << 10
	connectionWindow = maxStreams * streamWindow
	// maxHeaderBytes is far above what our own requests need.
	maxHeaderBytes = 16 << 10
)

func cleartext() *http.Protocols {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &protocols
}

func flowControl() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          maxStreams,
		MaxReceiveBufferPerStream:     streamWindow,
		MaxReceiveBufferPerConnection: connectionWindow,
	}
}

// NewServer makes an HTTP server for sessions; give it a listener whose connections have been synced (Port is one).
func NewServer(handler http.Handler) *http.Server {
	return &http.Server{Handler: handler, Protocols: cleartext(), HTTP2: flowControl(), MaxHeaderBytes: maxHeaderBytes}
}

// Serve answers the requests of one synced connection with handler. It returns nil when the session is over and conn closed; handlers
// may still be running then, with their contexts cancelled. Close conn to end it from outside.
func Serve(conn net.Conn, handler http.Handler) error {
	once := &onceListener{conn: conn, closed: make(chan struct{})}
	err := NewServer(handler).Serve(once)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// onceListener hands out one connection, and says that it is closed when that connection is.
type onceListener struct {
	conn    net.Conn
	handed  bool
	closed  chan struct{}
	closing sync.Once
}

func (l *onceListener) Accept() (net.Conn, error) {
	if !l.handed {
		l.handed = true
		return closeHook{l.conn, l.markClosed}, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *onceListener) markClosed()    { l.closing.Do(func() { close(l.closed) }) }
func (l *onceListener) Addr() net.Addr { return l.conn.LocalAddr() }
func (l *onceListener) Close() error   { return nil } // the session owns conn

// closeHook runs a function after its connection was closed.
type closeHook struct {
	net.Conn
	after func()
}

func (c closeHook) Close() error {
	err := c.Conn.Close()
	c.after()
	return err
}

// Client sends requests over one synced connection. It is an http.RoundTripper for any number of goroutines.
type Client struct {
	http *http.ClientConn
	conn net.Conn
	done chan struct{}
}

// NewClient starts the client's side of a session on a synced connection, which it owns from then on, also when it fails. It does not wait for
// the peer.
func NewClient(ctx context.Context, conn net.Conn) (*Client, error) {
	client := &Client{conn: conn, done: make(chan struct{})}
	var once sync.Once
	hooked := closeHook{conn, func() { once.Do(func() { close(client.done) }) }}
	transport := &http.Transport{
		Protocols:          cleartext(),
		HTTP2:              flowControl(),
		DisableCompression: true,
		DialContext:        func(context.Context, string, string) (net.Conn, error) { return hooked, nil },
	}
	var err error
	if client.http, err = transport.NewClientConn(ctx, "http", "guest:80"); err != nil {
		hooked.Close() // the error that matters is err
		return nil, err
	}
	return client, nil
}

// ErrBusy says that MaxTunnels tunnels are open.
var ErrBusy = errors.New("too many tunnels are open")

// RoundTrip sends a request. It fails when the session is over, and with ErrBusy when it is a CONNECT too many.
func (c *Client) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Method == http.MethodConnect && c.http.InFlight() >= MaxTunnels {
		return nil, ErrBusy
	}
	return c.http.RoundTrip(request)
}

// Done is closed when the session is over, for whatever reason.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the session: every open request and tunnel fails. It can be repeated.
func (c *Client) Close() error { return c.http.Close() }
