// Package hook calls the lifecycle hooks of the application: one HTTP/1.1 request to a port of the guest.
package hook

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"
)

// Hook is one call.
type Hook struct {
	Name      string  `json:"name"`
	Port      int     `json:"port"`
	TimeoutMS int     `json:"timeout_ms"`
	Body      *string `json:"body"`
	Host      string  `json:"host"`
	UserAgent *string `json:"user_agent"`
	RequestID *string `json:"request_id"`
}

// Result is how a call ended: with an HTTP status, or with an error and status 0.
type Result struct {
	Status int    `json:"status,omitempty"`
	Error  string `json:"error,omitempty"`
}

// The errors of a Result.
const (
	Refused = "refused" // nothing listens on the port
	Timeout = "timeout"
	Broken  = "broken" // the connection ended or what came was no HTTP
)

// Passed tells whether the application agreed.
func (r Result) Passed() bool { return r.Status == http.StatusOK }

// Call makes the request and waits for the whole answer, but not longer than the hook's timeout or ctx.
func (h Hook) Call(ctx context.Context) Result {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(h.TimeoutMS)*time.Millisecond)
	defer cancel()
	status, err := h.exchange(ctx)
	switch {
	case err == nil:
		return Result{Status: status}
	case errors.Is(err, syscall.ECONNREFUSED):
		return Result{Error: Refused}
	case ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded):
		return Result{Error: Timeout}
	default:
		return Result{Error: Broken}
	}
}

func (h Hook) exchange(ctx context.Context) (int, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(h.Port)))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) }) // fails only on a closed connection
	defer stop()
	if _, err := conn.Write(h.request()); err != nil {
		return 0, err
	}
	return readStatus(bufio.NewReader(conn))
}

// request is written by hand: net/http would add headers that the hooks' contract does not have.
func (h Hook) request() []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "POST /aws/lambda-microvms/runtime/v1/%s HTTP/1.1\r\nHost: %s\r\n", h.Name, h.Host)
	if h.UserAgent != nil {
		fmt.Fprintf(&out, "User-Agent: %s\r\n", *h.UserAgent)
	}
	if h.RequestID != nil {
		fmt.Fprintf(&out, "x-amzn-requestid: %s\r\n", *h.RequestID)
	}
	body := ""
	if h.Body != nil {
		body = *h.Body
		out.WriteString("Content-Type: application/json\r\n")
	}
	fmt.Fprintf(&out, "Content-Length: %d\r\n\r\n%s", len(body), body)
	return out.Bytes()
}

// maxBody is how much of an answer is read before the connection is closed under it.
const maxBody = 64 << 10

func readStatus(reader *bufio.Reader) (int, error) {
	for {
		response, err := http.ReadResponse(reader, &http.Request{Method: http.MethodPost})
		if err != nil {
			return 0, err
		}
		if response.StatusCode < http.StatusOK { // 100 Continue and its like announce the real answer
			continue
		}
		defer response.Body.Close()
		if _, err := io.CopyN(io.Discard, response.Body, maxBody); err != nil && err != io.EOF {
			return 0, err
		}
		return response.StatusCode, nil
	}
}
