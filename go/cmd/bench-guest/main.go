// bench-guest speaks to a guest over its two sockets for a bench: the least that can stand where the relay stands. It is no product.
//
// One JSON request a line on standard input, one answer a line on standard output:
//
//	{"do":"connect","in":"<path>","out":"<path>"}          {}        the sockets are connected; greeting them goes on by itself
//	{"do":"ask","method":"POST","path":"/v1/thaw","body":"..."}  {"status":200,"body":"..."}   the agent's answer
//	{"do":"get","port":8080,"path":"/"}                    {"status":200,"body":"..."}   the app's answer, through a tunnel
//	{"do":"close"}                                         {}        both sockets are closed
//
// A failure is {"error":"..."}. "get" is tried again while nothing listens on the port, for "patience_ms".
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"rekindle/internal/channel"
	"rekindle/internal/tunnel"
)

const (
	answerTimeout = 120 * time.Second
	askAgain      = 10 * time.Millisecond
	maxLine       = 1 << 20
)

type request struct {
	Do         string `json:"do"`
	In         string `json:"in"`
	Out        string `json:"out"`
	Method     string `json:"method"`
	Path       string `json:"path"`
	Body       string `json:"body"`
	Port       int    `json:"port"`
	PatienceMS int    `json:"patience_ms"`
}

type answer struct {
	Status int    `json:"status,omitempty"`
	Body   string `json:"body,omitempty"`
	Error  string `json:"error,omitempty"`
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, maxLine)
	out := json.NewEncoder(os.Stdout)
	var guest guest
	for lines.Scan() {
		if err := out.Encode(guest.serve(lines.Bytes())); err != nil {
			os.Exit(1)
		}
	}
	guest.close()
}

// guest is the one that is connected, if any.
type guest struct {
	conns   []net.Conn
	greeted chan greeting
	client  *channel.Client
}

type greeting struct {
	client *channel.Client
	err    error
}

func (g *guest) serve(line []byte) answer {
	var asked request
	if err := json.Unmarshal(line, &asked); err != nil {
		return answer{Error: err.Error()}
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	got, err := g.do(ctx, asked)
	if err != nil {
		return answer{Error: fmt.Sprintf("%s: %v", asked.Do, err)}
	}
	return got
}

func (g *guest) do(ctx context.Context, asked request) (answer, error) {
	switch asked.Do {
	case "connect":
		return answer{}, g.connect(asked)
	case "ask":
		return g.ask(ctx, asked)
	case "get":
		return g.get(ctx, asked)
	case "close":
		g.close()
		return answer{}, nil
	}
	return answer{}, errors.New("unknown request")
}

func (g *guest) connect(asked request) error {
	g.close()
	for _, path := range []string{asked.In, asked.Out} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			return err
		}
		g.conns = append(g.conns, conn)
	}
	g.greeted = make(chan greeting, 1)
	go greetIn(g.conns[0], g.greeted)
	go serveOut(g.conns[1])
	return nil
}

func greetIn(conn net.Conn, done chan<- greeting) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	if err := channel.Greet(ctx, conn); err != nil {
		done <- greeting{err: err}
		return
	}
	client, err := channel.NewClient(context.Background(), conn)
	done <- greeting{client, err}
}

// serveOut takes the session on which the guest asks for connections, and refuses them: a bench has no outside.
func serveOut(conn net.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	if channel.Greet(ctx, conn) == nil {
		channel.Serve(conn, http.NotFoundHandler()) // it ends when the bench closes conn
	}
}

// session waits for the guest's first answer.
func (g *guest) session() (*channel.Client, error) {
	if g.client == nil {
		if g.greeted == nil {
			return nil, errors.New("not connected")
		}
		first := <-g.greeted
		if g.greeted = nil; first.err != nil {
			return nil, first.err
		}
		g.client = first.client
	}
	return g.client, nil
}

func (g *guest) ask(ctx context.Context, asked request) (answer, error) {
	client, err := g.session()
	if err != nil {
		return answer{}, err
	}
	return exchange(ctx, client, asked.Method, "http://guest"+asked.Path, asked.Body)
}

func (g *guest) get(ctx context.Context, asked request) (answer, error) {
	client, err := g.session()
	if err != nil {
		return answer{}, err
	}
	authority := fmt.Sprintf("127.0.0.1:%d", asked.Port)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return tunnel.Dial(ctx, client, authority) }
	app := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	until := time.Now().Add(time.Duration(asked.PatienceMS) * time.Millisecond)
	for {
		got, err := exchange(ctx, app, http.MethodGet, "http://"+authority+asked.Path, "")
		var refused *tunnel.Refused
		if !errors.As(err, &refused) || time.Now().After(until) {
			return got, err
		}
		time.Sleep(askAgain)
	}
}

func exchange(ctx context.Context, transport http.RoundTripper, method, url, body string) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return answer{Status: response.StatusCode, Body: string(text)}, err
}

func (g *guest) close() {
	if g.client != nil {
		g.client.Close() // its error is of a session that is of no use any more
	}
	for _, conn := range g.conns {
		conn.Close()
	}
	*g = guest{}
}
