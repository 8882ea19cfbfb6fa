package vm

import (
	"context"
	"net"
	"net/http"
	"time"

	"rekindle/internal/channel"
	"rekindle/internal/tunnel"
)

const (
	// appConnectTimeout is generous: connecting is local to the guest, but a guest may be starved of CPU.
	appConnectTimeout = 30 * time.Second
	// idleTimeout is below the keep-alive timeouts of common app servers (5 s in Node.js and uvicorn), so that it is us who
	// close: a request sent while the app closes an idle connection cannot always be repeated.
	idleTimeout      = 4 * time.Second
	maxIdle          = 128 // connections kept per guest port
	expectTimeout    = time.Second
	maxAppHeaderSize = 256 << 10
)

// Session is one session with a guest's agent, and the connections to its app that live in it. All of them end with it.
type Session struct {
	client *channel.Client
	http1  *http.Transport
	h2c    *http.Transport
}

func newSession(client *channel.Client, meter *Meter) *Session {
	dial := func(ctx context.Context, _, authority string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, appConnectTimeout)
		defer cancel()
		conn, err := tunnel.Dial(ctx, client, authority)
		if err != nil {
			return nil, err
		}
		return &meteredConn{conn, meter}, nil
	}
	return &Session{client: client, http1: newTransport(dial, (*http.Protocols).SetHTTP1), h2c: newTransport(dial, (*http.Protocols).SetUnencryptedHTTP2)}
}

type dialer func(ctx context.Context, network, authority string) (net.Conn, error)

func newTransport(dial dialer, choose func(*http.Protocols, bool)) *http.Transport {
	var protocols http.Protocols
	choose(&protocols, true)
	return &http.Transport{
		DialContext:            dial,
		Protocols:              &protocols,
		DisableCompression:     true, // what the client accepts is between it and the app
		MaxIdleConnsPerHost:    maxIdle,
		IdleConnTimeout:        idleTimeout,
		ExpectContinueTimeout:  expectTimeout,
		MaxResponseHeaderBytes: maxAppHeaderSize,
	}
}

// App sends requests to the app over HTTP/1.1. It pools connections by guest port.
func (s *Session) App() http.RoundTripper { return s.http1 }

// AppH2C is App for HTTP/2 without TLS, by prior knowledge.
func (s *Session) AppH2C() http.RoundTripper { return s.h2c }

// Agent sends requests to the guest's agent.
func (s *Session) Agent() http.RoundTripper { return s.client }

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.client.Done() }

// Over tells whether the session has ended.
func (s *Session) Over() bool {
	select {
	case <-s.client.Done():
		return true
	default:
		return false
	}
}

// close ends the session and every connection in it.
func (s *Session) close() {
	s.client.Close() // its error is of a connection that is of no use any more
	s.http1.CloseIdleConnections()
	s.h2c.CloseIdleConnections()
}
