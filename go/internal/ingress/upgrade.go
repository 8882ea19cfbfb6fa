package ingress

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"time"
)

// lingerTimeout is how long a client may go on after the app has ended an upgraded connection.
const lingerTimeout = 10 * time.Second

// duplex is the app's side of an upgraded connection, as net/http's transport gives it.
type duplex interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// switchProtocols joins client and app after the app has agreed to another protocol. It returns when both directions have ended.
func (e *exchange) switchProtocols(response *http.Response) {
	app, ok := response.Body.(duplex)
	if !ok || !strings.EqualFold(upgradeType(response.Header), upgradeType(e.in.Header)) {
		notForwarded.write(e.w, e.id) // the app switched to something nobody asked for
		return
	}
	if e.parks() && response.Header.Get(headerExtensions) != "" {
		notForwarded.write(e.w, e.id) // nobody asked for these either
		return
	}
	protocol, chosen := response.Header.Get("Upgrade"), response.Header.Get(headerSubprotocol)
	copyResponseHeader(e.w.Header(), response.Header, e.id)
	e.selectSubprotocol()
	conn, buffered, err := http.NewResponseController(e.w).Hijack()
	if err != nil {
		notForwarded.write(e.w, e.id) // HTTP/2 has no upgrades
		return
	}
	defer conn.Close()
	e.w.Header().Set("Connection", "Upgrade")
	e.w.Header().Set("Upgrade", protocol)
	response.Header, response.Body = e.w.Header(), nil
	if response.Write(buffered) != nil || buffered.Flush() != nil {
		return // the client is gone
	}
	// net/http has read nothing ahead but what is in this buffer
	if e.parks() {
		newParking(e, conn, buffered.Reader, chosen).run(app)
		return
	}
	join(client{conn.(*tls.Conn), buffered.Reader}, app, e.touch)
}

// selectSubprotocol gives a browser the answer it needs: it fails a handshake in which none of its offers was chosen.
func (e *exchange) selectSubprotocol() {
	if e.known.marked && e.w.Header().Get(headerSubprotocol) == "" {
		e.w.Header().Set(headerSubprotocol, protocolMarker)
	}
}

type client struct {
	*tls.Conn
	buffered io.Reader
}

func (c client) Read(data []byte) (int, error) { return c.buffered.Read(data) }

// join copies both ways until both directions have ended; touch is called with each piece. An orderly end of one is passed on as a
// half-close; a failure ends both.
func join(c client, app duplex, touch func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := copyThrough(app, c, touch); err != nil || app.CloseWrite() != nil {
			app.Close()
		}
	}()
	if _, err := copyThrough(c, app, touch); err != nil || c.CloseWrite() != nil {
		c.Conn.Close()
	}
	c.SetReadDeadline(time.Now().Add(lingerTimeout)) // fails only on a closed connection
	<-done
	app.Close()
}

func copyThrough(to io.Writer, from io.Reader, touch func()) (int64, error) {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{to}, touching{from, touch}, *buffer)
}

// touching calls touch with every piece that is read.
type touching struct {
	from  io.Reader
	touch func()
}

func (t touching) Read(data []byte) (int, error) {
	n, err := t.from.Read(data)
	if n > 0 {
		t.touch()
	}
	return n, err
}
