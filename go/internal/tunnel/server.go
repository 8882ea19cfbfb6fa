package tunnel

import (
	"net/http"
	"time"
)

// Reason is the word in which a refusal is given.
type Reason string

// The reasons that there are.
const (
	ReasonRefused     Reason = "refused"     // nothing listens there
	ReasonUnreachable Reason = "unreachable" // the dial failed in another way
	ReasonTimeout     Reason = "timeout"
	ReasonDenied      Reason = "denied" // policy
)

const reasonHeader = "Rekindle-Error"

var statusOf = map[Reason]int{
	ReasonRefused:     http.StatusBadGateway,
	ReasonUnreachable: http.StatusBadGateway,
	ReasonTimeout:     http.StatusGatewayTimeout,
	ReasonDenied:      http.StatusForbidden,
}

// Refuse answers a CONNECT request with a refusal.
func Refuse(w http.ResponseWriter, reason Reason) {
	w.Header().Set(reasonHeader, string(reason))
	w.WriteHeader(statusOf[reason])
}

// Accept answers a CONNECT request with 200 and returns the tunnel. The caller's handler must not return before it is done with
// the tunnel: returning cuts it.
func Accept(w http.ResponseWriter, r *http.Request) (*Conn, error) {
	carrier := &serverCarrier{w: w, control: http.NewResponseController(w)}
	w.WriteHeader(http.StatusOK)
	if err := carrier.control.Flush(); err != nil {
		return nil, err
	}
	return newConn(r.Context(), r.Body, carrier, r.Host), nil
}

// serverCarrier is the side that answered the CONNECT. Its stream ends when the handler returns.
type serverCarrier struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (c *serverCarrier) Write(data []byte) (int, error) {
	n, err := c.w.Write(data)
	if err == nil {
		err = c.control.Flush()
	}
	return n, err
}

// end does nothing: the end chunk was flushed, and the stream ends when the handler returns.
func (c *serverCarrier) end() {}

// close finishes at once, for after its handler has returned nobody may write.
func (c *serverCarrier) close(finish func()) {
	finish()
	c.control.SetReadDeadline(past) // fails only when the stream is gone already
}

// cut resets the stream: a deadline that has passed is the only thing in net/http that unblocks both a read and a write.
func (c *serverCarrier) cut() {
	c.control.SetReadDeadline(past)  // both fail only when the stream is gone
	c.control.SetWriteDeadline(past) // already
}

var past = time.Unix(1, 0)
