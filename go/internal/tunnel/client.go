package tunnel

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
)

// Refused says that the peer would not open a tunnel.
type Refused struct {
	Status int    // the HTTP status
	Reason Reason // "" when the peer gave none
}

func (r *Refused) Error() string {
	return fmt.Sprintf("tunnel refused: %s (HTTP %d)", r.Reason, r.Status)
}

// Dial asks the peer behind transport (a channel.Client) for a tunnel to authority, "host:port". It fails with *Refused when the peer
// says no, and with transport's error otherwise. ctx bounds the asking only; a tunnel that is open outlives it.
func Dial(ctx context.Context, transport http.RoundTripper, authority string) (*Conn, error) {
	stream, cancel := context.WithCancel(context.WithoutCancel(ctx))
	undo := context.AfterFunc(ctx, cancel)
	conn, err := open(stream, cancel, transport, authority)
	if undo() && err == nil {
		return conn, nil
	}
	cancel()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if conn != nil {
		conn.Reset()
	}
	return nil, err
}

func open(ctx context.Context, cancel func(), transport http.RoundTripper, authority string) (*Conn, error) {
	bodyReader, bodyWriter := io.Pipe()
	request := (&http.Request{
		Method: http.MethodConnect,
		URL:    &url.URL{Scheme: "http", Host: authority},
		Host:   authority,
		Header: http.Header{},
		Body:   bodyReader,
		// The length is unknown, not zero.
		ContentLength: -1,
	}).WithContext(ctx)
	response, err := transport.RoundTrip(request)
	if err != nil {
		bodyWriter.Close() // so that nothing waits for the body of a request that has failed
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		bodyWriter.Close()
		return nil, &Refused{response.StatusCode, Reason(response.Header.Get(reasonHeader))}
	}
	carrier := &clientCarrier{bodyWriter: bodyWriter, response: response.Body, cancel: cancel}
	return newConn(ctx, response.Body, carrier, authority), nil
}

// clientCarrier is the side that sent the CONNECT: it writes the request's body and reads the response's.
type clientCarrier struct {
	bodyWriter *io.PipeWriter
	response   io.Closer
	cancel     func()
	once       sync.Once
}

func (c *clientCarrier) Write(data []byte) (int, error) { return c.bodyWriter.Write(data) }

// end writes nothing, which returns when the sender comes back for more: by then it has sent what it had. It fails when the stream has
// ended since, as it does when the peer is quick to answer the end chunk and to hang up. Whether that was in order, reading tells.
func (c *clientCarrier) end() {
	c.bodyWriter.Write(nil)
	c.bodyWriter.Close() // never fails
}

func (c *clientCarrier) close(finish func()) {
	go func() {
		finish()
		c.cut()
	}()
}

// cut cancels the request before it closes the bodies: closing the response's first would wait for the request's.
func (c *clientCarrier) cut() {
	c.once.Do(func() {
		c.cancel()
		c.bodyWriter.CloseWithError(net.ErrClosed)
		c.response.Close()
	})
}
