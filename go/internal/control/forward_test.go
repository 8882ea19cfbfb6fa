package control

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"reflect"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
)

// rawApp answers one connection after another with fixed bytes and keeps what it was sent, up to an empty line.
func rawApp(t *testing.T, answer string) (int, <-chan string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	heads := make(chan string, 16)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				lines := bufio.NewReader(conn)
				for {
					head := ""
					for !strings.HasSuffix(head, "\r\n\r\n") {
						line, err := lines.ReadString('\n')
						if err != nil {
							return
						}
						head += line
					}
					heads <- head
					io.WriteString(conn, answer)
				}
			}()
		}
	}()
	return listener.Addr().(*net.TCPAddr).Port, heads
}

// raw sends bytes to the endpoint over TLS and returns everything that comes back until the end.
func (m *machine) raw(text string) string {
	m.Helper()
	conn, err := tls.Dial("tcp", fmt.Sprintf("localhost:%d", m.port), &tls.Config{RootCAs: m.roots, NextProtos: []string{"http/1.1"}})
	if err != nil {
		m.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, text)
	back, err := io.ReadAll(conn)
	if err != nil {
		m.Fatal(err)
	}
	return string(back)
}

var requestIDLine = regexp.MustCompile(`X-Amzn-Requestid: [0-9a-f-]{36}\r\n`)

func TestNothingButTheRequestIDIsAddedOnTheWire(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	const answer = "HTTP/1.1 200 Fine\r\nX-App: a\r\nX-App: b\r\nX-Aws-Proxy-Error: forged\r\nX-Amzn-Requestid: app\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok"
	port, heads := rawApp(t, answer)
	back := m.raw("GET /a%2Fb/{c}?x=1;y=%zz&&z HTTP/1.1\r\nHost: some.host:99\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-Forwarded-For: 9.9.9.9\r\n" +
		"X-Aws-Proxy-Auth: " + m.token(port) + "\r\nX-Aws-Proxy-Port: " + fmt.Sprint(port) + "\r\nX-Aws-Proxy-Unknown: 1\r\n" +
		"Traceparent: t\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n")
	got := <-heads
	want := "GET /a%2Fb/{c}?x=1;y=%zz&&z HTTP/1.1\r\nHost: some.host:99\r\nCookie: a=b\r\nCookie: c=d\r\nTraceparent: t\r\nX-Amzn-Requestid: *\r\n" +
		"X-Forwarded-For: 9.9.9.9\r\n\r\n"
	if masked := requestIDLine.ReplaceAllString(got, "X-Amzn-Requestid: *\r\n"); masked != want {
		t.Errorf("the app saw\n%q, want\n%q", masked, want)
	}
	masked := requestIDLine.ReplaceAllString(back, "X-Amzn-Requestid: *\r\n")
	if masked != "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Amzn-Requestid: *\r\nX-App: a\r\nX-App: b\r\nConnection: close\r\n\r\nok" {
		t.Errorf("the client saw\n%q", masked)
	}
	if requestIDLine.FindString(got) != requestIDLine.FindString(back) {
		t.Error("app and client were told different request ids")
	}
}

func TestOddTargets(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	port, heads := rawApp(t, "HTTP/1.1 204 No Content\r\n\r\n")
	for target, want := range map[string]string{"//a//b": "//a//b", "*": "*", "/?": "/?", "http://other.host/x?y": "/x?y", "/a b": ""} {
		method := "OPTIONS"
		back := m.raw(method + " " + target + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Aws-Proxy-Auth: " + m.token(port) + "\r\nX-Aws-Proxy-Port: " + fmt.Sprint(port) + "\r\n\r\n")
		if want == "" {
			if !strings.HasPrefix(back, "HTTP/1.1 400") {
				t.Errorf("%q: %q", target, back)
			}
			continue
		}
		if line, _, _ := strings.Cut(<-heads, "\r\n"); line != method+" "+want+" HTTP/1.1" {
			t.Errorf("%q: the app saw %q", target, line)
		}
	}
}

func TestBodiesOfEveryShape(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	port := app(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", fmt.Sprintf("%d %v %s", r.ContentLength, r.TransferEncoding, r.Proto))
		w.WriteHeader(299)
		w.Write(body)
	})
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	bothProtocols(t, func(t *testing.T, choose func(*http.Protocols, bool)) {
		client := m.browser(choose)
		for name, c := range map[string]struct {
			body io.Reader
			seen string
		}{
			"none":           {nil, "0 [] HTTP/1.1"},
			"known length":   {bytes.NewReader(large), "1048576 [] HTTP/1.1"},
			"unknown length": {struct{ io.Reader }{bytes.NewReader(large)}, "-1 [chunked] HTTP/1.1"},
		} {
			response, body := do(t, client, m.request("POST", "/", port, c.body))
			want := large
			if c.body == nil {
				want = nil
			}
			if response.StatusCode != 299 || body != string(want) || response.Header.Get("X-Seen") != c.seen {
				t.Errorf("%s: %d, %d bytes, %s", name, response.StatusCode, len(body), response.Header.Get("X-Seen"))
			}
		}
	})
}

func TestAnswersStreamAsTheyCome(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	next := make(chan string)
	port := app(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		http.NewResponseController(w).Flush()
		for text := range next {
			io.WriteString(w, text)
			http.NewResponseController(w).Flush()
		}
	})
	client := m.browser(http2)
	response, err := client.Do(m.request("GET", "/", port, nil)) // comes back before the app has said a word
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for _, text := range []string{"data: 1\n", "data: 2\n"} {
		next <- text
		if got, err := lines.ReadString('\n'); got != text {
			t.Fatalf("%q, %v", got, err)
		}
	}
	close(next)
}

func TestRequestAndAnswerStreamAtOnce(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	port := app(t, func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if r.ProtoMajor == 1 {
			control.EnableFullDuplex()
		}
		control.Flush()
		lines := bufio.NewReader(r.Body)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			io.WriteString(w, "echo "+line)
			control.Flush()
		}
	})
	bothProtocols(t, func(t *testing.T, choose func(*http.Protocols, bool)) {
		reader, writer := io.Pipe()
		response, err := m.browser(choose).Do(m.request("POST", "/", port, reader))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		lines := bufio.NewReader(response.Body)
		for i := range 3 {
			fmt.Fprintf(writer, "%d\n", i)
			if got, err := lines.ReadString('\n'); got != fmt.Sprintf("echo %d\n", i) {
				t.Fatalf("%q, %v", got, err)
			}
		}
		writer.Close()
		if rest, err := io.ReadAll(lines); len(rest) > 0 || err != nil {
			t.Errorf("%q, %v", rest, err)
		}
	})
}

func TestTrailersPassBothWays(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	port := app(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Announced")
		io.Copy(w, r.Body)
		w.Header().Set("X-Announced", r.Trailer.Get("X-Asked"))
		w.Header().Set(http.TrailerPrefix+"X-Sudden", "yes")
	})
	bothProtocols(t, func(t *testing.T, choose func(*http.Protocols, bool)) {
		for _, h2c := range []string{"false", "true"} {
			request := m.request("POST", "/", port, struct{ io.Reader }{strings.NewReader("body")})
			request.Trailer = http.Header{"X-Asked": {"why"}}
			request.Header.Set("X-aws-proxy-force-h2", h2c)
			response, body := do(t, m.browser(choose), request)
			want := http.Header{"X-Announced": {"why"}, "X-Sudden": {"yes"}}
			if body != "body" || !reflect.DeepEqual(response.Trailer, want) {
				t.Errorf("force-h2 %s: %q, %v", h2c, body, response.Trailer)
			}
		}
	})
}

// What a gRPC call looks like: POST over h2c, TE: trailers, status in a trailer after an empty or full body.
func TestForceH2(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	port := app(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("X-Seen", r.Proto+" "+r.Header.Get("Te")+" "+r.Host)
		io.Copy(w, r.Body)
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	})
	request := m.request("POST", "/pkg.Service/Call", port, strings.NewReader("\x00\x00\x00\x00\x02hi"))
	request.Header.Set("X-aws-proxy-force-h2", "true")
	request.Header.Set("Te", "trailers")
	request.Host = "grpc.host"
	response, body := do(t, m.browser(http2), request)
	if response.Header.Get("X-Seen") != "HTTP/2.0 trailers grpc.host" || body != "\x00\x00\x00\x00\x02hi" || response.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("%v %q %v", response.Header, body, response.Trailer)
	}
	old, _ := rawApp(t, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
	request = m.request("GET", "/", old, nil)
	request.Header.Set("X-aws-proxy-force-h2", "true")
	response, body = do(t, m.browser(http2), request)
	check(t, response, body, 502, "", "")
}

func TestExpectContinue(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	var reads atomic.Int64
	port := app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		body, _ := io.ReadAll(r.Body)
		reads.Add(int64(len(body)))
		io.WriteString(w, r.Header.Get("Expect"))
	})
	send := func(path string) (*http.Response, bool) {
		continued := false
		trace := &httptrace.ClientTrace{Got100Continue: func() { continued = true }}
		request := m.request("POST", path, port, strings.NewReader("body"))
		request.Header.Set("Expect", "100-continue")
		response, _ := do(t, m.browser(http1), request.WithContext(httptrace.WithClientTrace(t.Context(), trace)))
		return response, continued
	}
	if response, continued := send("/yes"); response.StatusCode != 200 || !continued || reads.Load() != 4 {
		t.Errorf("%d, continued %v, read %d", response.StatusCode, continued, reads.Load())
	}
	if response, continued := send("/no"); response.StatusCode != 413 || continued {
		t.Errorf("%d, continued %v", response.StatusCode, continued)
	}
}

func TestEarlyHints(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	port := app(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		io.WriteString(w, "done")
	})
	bothProtocols(t, func(t *testing.T, choose func(*http.Protocols, bool)) {
		var hint string
		trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			hint = fmt.Sprint(code, header.Get("Link"))
			return nil
		}}
		response, body := do(t, m.browser(choose), m.request("GET", "/", port, nil).WithContext(httptrace.WithClientTrace(t.Context(), trace)))
		if hint != "103</a.css>" || body != "done" || response.Header.Get("Link") != "" {
			t.Errorf("%q, %q, %v", hint, body, response.Header)
		}
	})
}

func TestAnAnswerBeforeTheBodyIsRead(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	port := app(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, "no")
	})
	bothProtocols(t, func(t *testing.T, choose func(*http.Protocols, bool)) {
		reader, writer := io.Pipe() // never ends
		defer writer.Close()
		response, err := m.browser(choose).Do(m.request("POST", "/", port, reader))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body := make([]byte, 2)
		if _, err := io.ReadFull(response.Body, body); response.StatusCode != 401 || string(body) != "no" {
			t.Errorf("%d %q, %v", response.StatusCode, body, err)
		}
	})
}

func TestAnAnswerThatIsCutIsCutForTheClient(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	port := app(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Write(bytes.Repeat([]byte("x"), 100_000))
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	bothProtocols(t, func(t *testing.T, choose func(*http.Protocols, bool)) {
		response, err := m.browser(choose).Do(m.request("GET", "/", port, nil))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if n, err := io.Copy(io.Discard, response.Body); err == nil {
			t.Errorf("%d bytes looked whole", n)
		}
	})
}

func TestAnAnswerThatIsCutBeforeItsBodyIsNone(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	port := app(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		w.Header().Set("X-App", "yes")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	bothProtocols(t, func(t *testing.T, choose func(*http.Protocols, bool)) {
		response, body := do(t, m.browser(choose), m.request("GET", "/", port, nil))
		check(t, response, body, http.StatusBadGateway, "", "")
		if response.Header.Get("X-App") != "" {
			t.Error("a refusal with the app's headers")
		}
	})
}

func TestAClientThatLeavesIsFeltByTheApp(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	left := make(chan struct{}, 2)
	port := app(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		left <- struct{}{}
	})
	bothProtocols(t, func(t *testing.T, choose func(*http.Protocols, bool)) {
		client := m.browser(choose)
		response, err := client.Do(m.request("GET", "/", port, nil))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		client.CloseIdleConnections()
		<-left
	})
	eventually(t, "no request is open", func() bool { return m.listed()["open"] == 0.0 })
}

func TestConnectionsToTheAppAreReused(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	var connections atomic.Int64
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }),
		ConnState: func(_ net.Conn, state http.ConnState) {
			connections.Add(map[http.ConnState]int64{http.StateNew: 1}[state])
		},
	}
	port := serveApp(t, server)
	client := m.browser(http1)
	for range 20 {
		do(t, client, m.request("POST", "/", port, strings.NewReader("x")))
	}
	if n := connections.Load(); n > 2 {
		t.Errorf("%d connections for 20 requests one after another", n)
	}
}

// The app closes each connection right after its answer without having said so, as servers do when a keep-alive time is over.
func TestAnIdleConnectionThatTheAppHasClosedIsNoError(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
			conn.Close()
		}
	}()
	client := m.browser(http1)
	port := listener.Addr().(*net.TCPAddr).Port
	for range 50 {
		if response, body := do(t, client, m.request("GET", "/", port, nil)); response.StatusCode != 200 || body != "ok" {
			t.Fatalf("%d %q", response.StatusCode, body)
		}
	}
}

func TestHeadersThatAreTooLong(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	port := app(t, func(http.ResponseWriter, *http.Request) {})
	request := m.request("GET", "/", port, nil)
	request.Header.Set("X-Long", strings.Repeat("x", 200<<10))
	if response, err := m.browser(http1).Do(request); err == nil {
		response.Body.Close()
		if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Error(response.Status)
		}
	}
	request = m.request("GET", "/", port, nil)
	request.Header.Set("X-Long", strings.Repeat("x", 30<<10))
	if response, _ := do(t, m.browser(http1), request); response.StatusCode != 200 {
		t.Error(response.Status)
	}
}

func TestActivityIsWhatPassesOverTheEndpoint(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	more := make(chan struct{})
	port := app(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-more
		io.WriteString(w, "12345")
	})
	if last := m.listed()["last_byte_ms"]; last != 0.0 {
		t.Errorf("last_byte_ms %v before the first request", last)
	}
	refused, _ := http.NewRequest("GET", m.url("/"), nil)
	do(t, m.browser(http1), refused)
	if last := m.listed()["last_byte_ms"]; last != 0.0 {
		t.Errorf("last_byte_ms %v after a refused request", last)
	}
	response, err := m.browser(http1).Do(m.request("GET", "/", port, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	silent := m.listed()
	eventually(t, "the clock goes on", func() bool { return m.listed()["last_byte_ms"] == silent["last_byte_ms"] && m.listed()["open"] == 1.0 })
	close(more)
	if body, err := io.ReadAll(response.Body); string(body) != "12345" {
		t.Fatal(body, err)
	}
	spoken := m.listed()
	if spoken["last_byte_ms"].(float64) < silent["last_byte_ms"].(float64) || spoken["bytes_out"].(float64) < silent["bytes_out"].(float64)+5 {
		t.Errorf("%v, then %v", silent, spoken)
	}
	if silent["last_byte_ms"] == 0.0 || silent["bytes_in"] == 0.0 {
		t.Errorf("%v", silent)
	}
}
